//! Values of settings as they are written, each with where that is: whoever is told that one is
//! wrong is told the place too.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use config::{Value, ValueKind};

use super::setting::{Given, Setting};
use crate::failure::Failure;

/// Where the value of a setting comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Default,
    /// `line` counts from 1.
    File {
        path: PathBuf,
        line: Option<usize>,
    },
    /// By its name, as is a flag.
    Variable(String),
    Flag(String),
    /// `t3fs-node set`.
    Change,
}

/// For people, behind a value.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Origin::File { path, line: None } => path.display().fmt(f),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
            Origin::Change => f.write_str("set while running"),
        }
    }
}

impl Origin {
    /// A sentence about a value that is wrong, with where it is written. Where that is a variable
    /// or a flag, its name takes the place of the key.
    fn tell(&self, key: &str, sentence: &str) -> String {
        match self {
            Origin::Default | Origin::Change => sentence.to_owned(),
            Origin::File { .. } => format!("{self}: {sentence}"),
            Origin::Variable(_) | Origin::Flag(_) => match sentence.strip_prefix(key) {
                Some(rest) if rest.starts_with(' ') => format!("{self}{rest}"),
                _ => format!("{self}: {sentence}"),
            },
        }
    }
}

/// A setting that was given, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSetting {
    pub name: &'static str,
    /// The value, unless it is a secret.
    pub shown: String,
    pub origin: Origin,
}

impl fmt::Display for GivenSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GivenSetting { name, shown, origin } = self;
        write!(f, "{name} = {shown} ({origin})")
    }
}

/// The values that are written, by key.
#[derive(Default)]
pub struct Written(BTreeMap<&'static str, (&'static Setting, Value, Origin)>);

impl Written {
    /// Takes a value, before those from elsewhere that were there.
    pub fn put(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.0.insert(setting.name, (setting, value, origin));
    }

    /// What a setting is, by the function of its definition: as written, else the default.
    pub fn read<G: Given, T>(
        &self,
        setting: &Setting,
        by: impl FnOnce(G) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (value, origin) = match self.0.get(setting.name) {
            Some((_, value, origin)) => (value.clone(), origin.clone()),
            None => (setting.default_value().unwrap_or_else(nothing), Origin::Default),
        };
        let read = setting.read(&value).and_then(by);
        read.map_err(|why| Failure { line: origin.tell(setting.name, &why.line), ..why })
    }

    /// All that is written.
    pub fn told(&self) -> Vec<GivenSetting> {
        let told = |(setting, value, origin): &(&'static Setting, Value, Origin)| GivenSetting {
            name: setting.name,
            shown: setting.shown(value),
            origin: origin.clone(),
        };
        self.0.values().map(told).collect()
    }
}

fn nothing() -> Value {
    Value::new(None, ValueKind::Nil)
}
