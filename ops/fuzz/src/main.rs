//! One target under libFuzzer, which brings `main`. `cargo ops fuzz` builds and starts it.
//!
//! `T3FS_FUZZ_TARGET` names the target. Its seeds are written to the folder `T3FS_FUZZ_SEEDS`, if
//! that is set, before libFuzzer looks there. All else are libFuzzer's own arguments.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use t3fs_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("T3FS_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|t| t.name == name);
    let target = target.unwrap_or_else(|| panic!("T3FS_FUZZ_TARGET={name} is no target"));
    if let Some(dir) = std::env::var_os("T3FS_FUZZ_SEEDS") {
        for (i, seed) in (target.seeds)().iter().enumerate() {
            let path = std::path::Path::new(&dir).join(format!("seed-{i}"));
            std::fs::write(path, seed).expect("seeds can be written");
        }
    }
    TARGET.get_or_init(|| target);
}

fuzz_target!(init: choose(), |input: &[u8]| {
    (TARGET.get().expect("chosen at the start").run)(input);
});
