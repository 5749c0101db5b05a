//! What the command line says of settings. Which flags there are, and which command takes them,
//! the definitions say.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches};
use config::Value;

use super::definitions::{CONFIG, taken_by};
use super::setting::{Form, Setting};
use crate::failure::{Failure, refused};

/// Settings with the values that flags gave them.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file, which is no setting itself.
    pub config: Option<PathBuf>,
    pub(super) values: Vec<(&'static str, Value)>,
}

#[cfg(test)]
impl Flags {
    /// As if the flag was given.
    pub fn set(mut self, key: &'static str, value: Option<impl Into<Value>>) -> Flags {
        assert!(super::definitions::find(key).is_some(), "{key} is a key");
        self.values.extend(value.map(|v| (key, v.into())));
        self
    }
}

/// For clap: the flags of the settings that a command takes, which is one bit
/// ([`super::definitions::UP`] and so on).
#[derive(Clone, Debug)]
pub struct SettingArgs<const COMMAND: u8> {
    /// Not yet refused: clap's errors are not ours.
    flags: Result<Flags, Failure>,
}

impl<const COMMAND: u8> SettingArgs<COMMAND> {
    pub fn flags(&self) -> Result<Flags, Failure> {
        self.flags.clone()
    }

    /// What was given for one of them.
    pub fn given(&self, key: &str) -> Option<&Value> {
        let values = self.flags.as_ref().ok().map_or(&[][..], |flags| &flags.values);
        values.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

impl<const COMMAND: u8> Args for SettingArgs<COMMAND> {
    fn augment_args(command: Command) -> Command {
        command.args(taken_by(COMMAND).map(Setting::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const COMMAND: u8> FromArgMatches for SettingArgs<COMMAND> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let settings = taken_by(COMMAND).filter(|setting| setting.name != CONFIG.name);
        let mut flags = Flags { config: matches.get_one(CONFIG.name).cloned(), values: Vec::new() };
        for setting in settings {
            match given(setting, matches) {
                Ok(value) => flags.values.extend(value.map(|value| (setting.name, value))),
                Err(why) => return Ok(SettingArgs { flags: Err(why) }),
            }
        }
        Ok(SettingArgs { flags: Ok(flags) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn given(setting: &Setting, matches: &ArgMatches) -> Result<Option<Value>, Failure> {
    let name = setting.name;
    Ok(match setting.form {
        Form::Text | Form::Number => matches.get_one::<String>(name).cloned().map(Value::from),
        Form::Switch => matches.get_flag(name).then(|| true.into()),
        Form::Path => matches
            .get_one::<PathBuf>(name)
            .map(|path| text(setting, path))
            .transpose()?
            .map(Value::from),
        Form::List => matches
            .get_many::<String>(name)
            .map(|texts| Value::from(texts.cloned().collect::<Vec<String>>())),
        Form::Paths => matches
            .get_many::<PathBuf>(name)
            .map(|paths| paths.map(|path| text(setting, path)).collect::<Result<Vec<_>, _>>())
            .transpose()?
            .map(Value::from),
    })
}

fn text(setting: &Setting, path: &Path) -> Result<String, Failure> {
    let text = path.to_str().map(str::to_owned);
    let flag = setting.flag();
    text.ok_or_else(|| refused(format!("{flag} {} is not UTF-8; rename it", path.display())))
}
