//! The rules about `Cargo.toml` files: which member may depend on which.

use std::path::Path;

use toml::Table;

use super::Finding;

/// Member, and the members it may depend on. Every layer knows only those below it; nothing depends
/// on ops; the transport knows no actor.
const LAYERS: [(&str, &[&str]); 8] = [
    ("runtime", &[]),
    ("actors/proto", &["runtime"]),
    ("actors", &["proto", "runtime"]),
    ("transport", &["runtime"]),
    ("nodes", &["actors", "transport", "runtime"]),
    ("sim", &["actors", "runtime"]),
    ("ops/fuzz", &["actors", "transport", "runtime"]),
    ("ops", &["nodes", "sim", "actors"]),
];

/// Crates that bring threads, sockets or files of their own: never in the actors' dependencies.
const NOT_FOR_ACTORS: [&str; 5] = ["glommio", "tokio", "fjall", "rustix", "libc"];

/// Applies every rule to the manifest of `member`.
pub fn check(member: &str, path: &Path, text: &str) -> Vec<Finding> {
    let finding = |rule, name: &str, message| Finding {
        path: path.to_path_buf(),
        line: line_of(text, name),
        rule,
        message,
    };
    let manifest: Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(err) => return vec![finding("manifest", "", format!("not valid TOML: {err}"))],
    };
    let allowed = LAYERS.iter().find(|(name, _)| *name == member).map_or(&[][..], |(_, to)| to);
    let mut findings = Vec::new();
    for (kind, name) in dependencies(&manifest) {
        if let Some(target) = name.strip_prefix("t3fs-")
            && !allowed.contains(&target)
        {
            let message = format!("{member} must not depend on {target}");
            findings.push(finding("layers", &name, message));
        }
        let in_product = kind != "dev-dependencies";
        if member.starts_with("actors") && in_product && NOT_FOR_ACTORS.contains(&name.as_str()) {
            let message = format!("actors must not depend on {name}, they ask `Cx`");
            findings.push(finding("actors-one-door", &name, message));
        }
    }
    if member.starts_with("actors") && manifest.contains_key("features") {
        let message = "actors have no feature flags: one code in production and simulation";
        findings.push(finding("actors-no-features", "[features]", message.into()));
    }
    findings
}

/// `(table, package)` of every dependency, those of `[target.*]` included.
fn dependencies(manifest: &Table) -> Vec<(&'static str, String)> {
    let mut scopes: Vec<&Table> = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(|value| value.as_table()) {
        scopes.extend(targets.values().filter_map(|value| value.as_table()));
    }
    let mut found = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for scope in &scopes {
            let Some(table) = scope.get(kind).and_then(|value| value.as_table()) else {
                continue;
            };
            for (key, value) in table {
                // `alias = { package = "name" }` depends on `name`.
                let renamed = value.get("package").and_then(|package| package.as_str());
                found.push((kind, renamed.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

fn line_of(text: &str, needle: &str) -> usize {
    text.lines().position(|line| line.contains(needle)).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    //! Goal: each rule reports what it is for and nothing else. Method: a GOOD and a BAD sample per
    //! rule.
    use super::*;

    fn found(member: &str, text: &str) -> Vec<(&'static str, usize)> {
        let path = Path::new(member).join("Cargo.toml");
        check(member, &path, text).iter().map(|f| (f.rule, f.line)).collect()
    }

    #[test]
    fn layers() {
        assert_eq!(found("sim", "[dependencies]\nt3fs-actors.workspace = true\n"), []);
        let proto = found("actors/proto", "[dependencies]\nt3fs-actors.workspace = true\n");
        assert_eq!(proto, [("layers", 2)], "messages name no actor");
        assert_eq!(found("ops", "[dev-dependencies]\nt3fs-nodes.workspace = true\n"), []);
        let bad = "[dependencies]\nt3fs-actors.workspace = true\n";
        assert_eq!(found("transport", bad), [("layers", 2)]);
        let bad = "[target.'cfg(unix)'.dependencies]\nx = { package = \"t3fs-ops\" }\n";
        assert_eq!(found("nodes", bad), [("layers", 2)]);
    }

    #[test]
    fn actors_one_door() {
        assert_eq!(found("actors", "[dependencies]\nrkyv = \"1\"\n"), []);
        assert_eq!(found("nodes", "[dependencies]\nfjall = \"1\"\n"), []);
        assert_eq!(found("actors", "[dependencies]\nfjall = \"1\"\n"), [("actors-one-door", 2)]);
    }

    #[test]
    fn actors_no_features() {
        assert_eq!(found("nodes", "[features]\nfdb = []\n"), []);
        assert_eq!(found("actors", "[features]\nfast = []\n"), [("actors-no-features", 1)]);
    }

    #[test]
    fn a_broken_manifest_is_a_finding() {
        assert_eq!(found("sim", "[dependencies\n"), [("manifest", 1)]);
    }
}
