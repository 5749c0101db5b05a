//! What one setting is, and all that follows from its definition alone: its names as key, variable
//! and flag, its flag for clap, its limits, and what people are told of it.
//!
//! The definitions themselves are in [`super::definitions`], written with the macro `settings!` of
//! this file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, value_parser};
use config::{Value, ValueKind};

use crate::failure::{Failure, refused};

const ENV_PREFIX: &str = "T3FS_";
/// Longest text of a default that `-h` shows beside the flag; `--help` shows all.
const DEFAULT_SHORT: usize = 40;

/// How the value of a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Number,
    /// `true` or `false`; as a flag without a value.
    Switch,
    Path,
    /// Several texts, in a variable with commas between them.
    List,
    /// Several paths, in a variable with colons between them.
    Paths,
}

/// A type that flags, variables and the file are read into; it decides the form.
pub trait Given: Sized {
    const FORM: Form;

    /// `None`: the value has another form. Variables have texts, of which numbers and so on are
    /// read.
    fn read(value: &Value) -> Option<Self>;

    /// The value, if it is a number and there is one.
    fn number(&self) -> Option<u64> {
        None
    }
}

impl Given for String {
    const FORM: Form = Form::Text;

    fn read(value: &Value) -> Option<Self> {
        value.clone().into_string().ok()
    }
}

impl Given for u64 {
    const FORM: Form = Form::Number;

    fn read(value: &Value) -> Option<Self> {
        match &value.kind {
            ValueKind::String(text) => text.parse().ok(),
            // The library would make numbers of these too.
            ValueKind::Boolean(_) | ValueKind::Float(_) => None,
            _ => value.clone().into_uint().ok(),
        }
    }

    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Given for bool {
    const FORM: Form = Form::Switch;

    fn read(value: &Value) -> Option<Self> {
        value.clone().into_bool().ok()
    }
}

impl Given for PathBuf {
    const FORM: Form = Form::Path;

    fn read(value: &Value) -> Option<Self> {
        String::read(value).map(PathBuf::from)
    }
}

impl Given for Vec<String> {
    const FORM: Form = Form::List;

    fn read(value: &Value) -> Option<Self> {
        value.clone().into_array().ok()?.iter().map(String::read).collect()
    }
}

impl Given for Vec<PathBuf> {
    const FORM: Form = Form::Paths;

    fn read(value: &Value) -> Option<Self> {
        value.clone().into_array().ok()?.iter().map(PathBuf::read).collect()
    }
}

impl<G: Given> Given for Option<G> {
    const FORM: Form = G::FORM;

    fn read(value: &Value) -> Option<Self> {
        match value.kind {
            ValueKind::Nil => Some(None),
            _ => G::read(value).map(Some),
        }
    }

    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(Given::number)
    }
}

/// The value of a setting that may change, for people.
pub trait Shown {
    /// `None`: it is not set, and what holds follows from other things.
    fn shown(&self) -> Option<String>;
}

impl Shown for bool {
    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Shown for Duration {
    /// In seconds, as it is written.
    fn shown(&self) -> Option<String> {
        Some(self.as_secs().to_string())
    }
}

impl Shown for Option<String> {
    fn shown(&self) -> Option<String> {
        self.clone()
    }
}

/// What holds where a setting is not given.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    Text(&'static str),
    Number(u64),
    /// A number of bytes, for people also in MiB.
    Bytes(u64),
    Switch(bool),
    /// Nothing, or what follows from other things: told in words.
    Told(&'static str),
}

impl DefaultValue {
    /// The value, if there is a fixed one.
    fn value(self) -> Option<Value> {
        match self {
            DefaultValue::Text(text) => Some(text.into()),
            DefaultValue::Number(n) | DefaultValue::Bytes(n) => Some(n.into()),
            DefaultValue::Switch(on) => Some(on.into()),
            DefaultValue::Told(_) => None,
        }
    }

    /// The same for people.
    fn text(self) -> String {
        match self {
            DefaultValue::Text(text) => format!("{text:?}"),
            DefaultValue::Number(n) => n.to_string(),
            DefaultValue::Bytes(n) => format!("{n} ({} MiB)", n >> 20),
            DefaultValue::Switch(on) => on.to_string(),
            DefaultValue::Told(words) => words.to_owned(),
        }
    }
}

/// The definition of a setting.
pub struct Setting {
    /// The key in the file.
    pub name: &'static str,
    pub form: Form,
    /// Whether it may change while the process runs.
    pub is_tunable: bool,
    /// Whether nobody but a mount uses it.
    pub is_of_mounts: bool,
    /// Whether its value is never shown.
    is_secret: bool,
    /// Lines of a doc comment: up to the first empty one they are the short form.
    meaning: &'static [&'static str],
    default: DefaultValue,
    /// Of a number: the least and the largest.
    limits: Option<(u64, u64)>,
    /// What help calls the value of the flag.
    value_name: &'static str,
    short: Option<char>,
    /// The commands that take it as a flag, as bits.
    commands: u8,
    /// A variable of others that is read where ours is not set.
    alias: Option<&'static str>,
}

/// For `settings!`: the parts of a definition.
impl Setting {
    pub const fn new(
        name: &'static str,
        form: Form,
        is_tunable: bool,
        meaning: &'static [&'static str],
    ) -> Setting {
        Setting {
            name,
            form,
            is_tunable,
            is_of_mounts: false,
            is_secret: false,
            meaning,
            default: DefaultValue::Told("none"),
            limits: None,
            value_name: "",
            short: None,
            commands: 0,
            alias: None,
        }
    }

    pub const fn default(self, default: DefaultValue) -> Setting {
        Setting { default, ..self }
    }

    pub const fn limits(self, min: u64, max: u64) -> Setting {
        Setting { limits: Some((min, max)), ..self }
    }

    /// A setting without this is no flag of any command.
    pub const fn on(self, value_name: &'static str, commands: u8) -> Setting {
        Setting { value_name, commands, ..self }
    }

    pub const fn short(self, short: char) -> Setting {
        Setting { short: Some(short), ..self }
    }

    pub const fn of_mounts(self) -> Setting {
        Setting { is_of_mounts: true, ..self }
    }

    pub const fn secret(self) -> Setting {
        Setting { is_secret: true, ..self }
    }

    pub const fn alias(self, variable: &'static str) -> Setting {
        Setting { alias: Some(variable), ..self }
    }
}

impl Setting {
    /// `T3FS_NAME`.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// `name` with dashes; on the command line with two before it.
    pub fn flag_name(&self) -> String {
        self.name.replace('_', "-")
    }

    /// As it stands on the command line.
    pub fn flag(&self) -> String {
        format!("--{}", self.flag_name())
    }

    pub fn alias_name(&self) -> Option<&'static str> {
        self.alias
    }

    /// Whether one of these commands, which are bits, takes it as a flag.
    pub fn is_for(&self, commands: u8) -> bool {
        self.commands & commands != 0
    }

    /// What holds where it is not given, if that is one value for all.
    pub fn default_value(&self) -> Option<Value> {
        self.default.value()
    }

    /// A text of the environment as a value. Texts stay texts (a secret of digits is no number);
    /// what they must be, the type knows that they are read into.
    pub fn value_of(&self, text: &str) -> Value {
        let split = |by: char| {
            let parts = text.split(by).filter(|part| !part.is_empty());
            Value::from(parts.map(str::to_owned).collect::<Vec<String>>())
        };
        match self.form {
            Form::Text | Form::Number | Form::Switch | Form::Path => Value::from(text),
            Form::List => split(','),
            Form::Paths => split(':'),
        }
    }

    /// Its value, if it has the form of the setting and, being a number, is within the limits.
    pub fn read<G: Given>(&self, value: &Value) -> Result<G, Failure> {
        let within = |n: u64| self.limits.is_none_or(|(min, max)| (min..=max).contains(&n));
        let given = G::read(value).filter(|given| given.number().is_none_or(within));
        given.ok_or_else(|| {
            let (name, shown) = (self.name, self.shown(value));
            refused(format!("{name} is {shown}, and must be {}", self.form_told()))
        })
    }

    /// A value for people, unless it is a secret.
    pub fn shown(&self, value: &Value) -> String {
        match &value.kind {
            _ if self.is_secret => "(not shown)".to_owned(),
            // Variables and flags have no numbers, only texts of some.
            ValueKind::String(n) if self.form == Form::Number && n.parse::<i128>().is_ok() => {
                n.clone()
            }
            ValueKind::String(text) => format!("{text:?}"),
            ValueKind::Array(all) => {
                let all: Vec<String> = all.iter().map(|one| self.shown(one)).collect();
                format!("[{}]", all.join(", "))
            }
            ValueKind::Table(_) => "a table".to_owned(),
            other => other.to_string(),
        }
    }

    /// How its value is to be written.
    fn form_told(&self) -> String {
        let of = match self.value_name {
            "" | "N" => String::new(),
            unit => format!(" of {}", unit.to_ascii_lowercase()),
        };
        let limits = self.limits.map_or(String::new(), |(min, max)| format!(", {min} to {max}"));
        match self.form {
            Form::Text => "a text".to_owned(),
            Form::Number => format!("a number{of}{limits}"),
            Form::Switch => "true or false".to_owned(),
            Form::Path => "a path".to_owned(),
            Form::List => "a list, as in [\"a\", \"b\"]".to_owned(),
            Form::Paths => "a list of paths, as in [\"/a\", \"/b\"]".to_owned(),
        }
    }

    /// What holds where it is not given, for people.
    pub fn default_told(&self) -> String {
        self.default.text()
    }

    /// The flag.
    pub fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.flag_name());
        let arg = match self.form {
            // What is no number is refused by our sentence, which says the limits.
            Form::Text | Form::Number => arg,
            Form::Switch => arg.action(ArgAction::SetTrue),
            Form::Path => arg.value_parser(value_parser!(PathBuf)),
            Form::List => arg.action(ArgAction::Append).value_delimiter(','),
            Form::Paths => arg.action(ArgAction::Append).value_parser(value_parser!(PathBuf)),
        };
        let arg = match self.form {
            Form::Switch => arg,
            _ => arg.value_name(self.value_name),
        };
        let default = self.default.text();
        let brief = self.brief();
        let brief = brief.strip_suffix('.').unwrap_or(&brief);
        let help = match default.len() <= DEFAULT_SHORT && self.form != Form::Switch {
            true => format!("{brief} [default: {default}]"),
            false => brief.to_owned(),
        };
        let long = format!("{}\n\n{}; default: {default}", self.meaning(), self.variable());
        arg.short(self.short).help(help).long_help(long)
    }

    fn brief(&self) -> String {
        let lines = self.meaning.iter().map(|line| line.trim());
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }

    pub fn meaning(&self) -> String {
        let lines = self.meaning.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join(" ")
    }

    /// All that there is to say, as a commented key of the file.
    pub fn explain(&self) -> String {
        let flag = match self.commands {
            0 => String::new(),
            _ => format!("{}, ", self.flag()),
        };
        let also = self.alias.map_or(String::new(), |name| format!(" (or {name})"));
        let limits = self.limits.map_or(String::new(), |(min, max)| format!("; {min} to {max}"));
        let change = match self.is_tunable {
            true => format!("can change while it runs: `t3fs-node set {}=..`", self.name),
            false => "a change takes a restart".to_owned(),
        };
        format!(
            "\n# {}\n# {flag}{}{also}; default: {}{limits}; {change}\n# {} =\n",
            self.meaning(),
            self.variable(),
            self.default.text(),
            self.name
        )
    }
}

/// The key that a variable would be, if it has our prefix.
pub fn key_of(variable: &str) -> Option<String> {
    variable.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase)
}

/// Parser errors come as a drawing over several lines; the first and the last say it.
pub fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.next_back() {
        Some(last) => format!("{first}: {last}"),
        None => first,
    }
}

/// Makes of all definitions: [`Setting`]s, a constant with the name of each, `Settings` and
/// `Tunables` (what the values mean), and how they are read from what is written.
///
/// A definition has a doc comment, the name, the type that is read, the type that it becomes, the
/// function from one to the other (which refuses what is wrong; a number is within its limits when
/// it is called), and in braces the rest, as calls of [`Setting`]'s functions.
macro_rules! settings {
    (
        fixed at start {
            $($(#[doc = $line:literal])*
            $key:ident: $given:ty => $value:ty, $by:expr, { $($rest:tt)* })*
        }
        may change while running {
            $($(#[doc = $hot_line:literal])*
            $hot:ident: $hot_given:ty => $hot_value:ty, $hot_by:expr, { $($hot_rest:tt)* })*
        }
    ) => {
        /// Every setting.
        pub static SETTINGS: &[Setting] = &[
            $(Setting::new(stringify!($key), <$given as Given>::FORM, false, &[$($line),*])
                $($rest)*,)*
            $(Setting::new(stringify!($hot), <$hot_given as Given>::FORM, true, &[$($hot_line),*])
                $($hot_rest)*,)*
        ];

        /// The names of all settings, for those who must name one.
        #[allow(non_upper_case_globals, dead_code)]
        pub mod key {
            $(pub const $key: &str = stringify!($key);)*
            $(pub const $hot: &str = stringify!($hot);)*
        }

        /// What is fixed when a process starts.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $(pub $key: $value,)*
            /// All that was given, in words.
            pub given: Vec<GivenSetting>,
        }

        /// What may change while a process runs.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Tunables {
            $(pub $hot: $hot_value,)*
        }

        /// Each value by itself; what must fit together, others look at.
        pub(super) fn read(written: &Written) -> Result<(Settings, Tunables), Failure> {
            let settings = Settings {
                $($key: written.read::<$given, _>(defined(key::$key), $by)?,)*
                given: written.told(),
            };
            let tunables = Tunables {
                $($hot: written.read::<$hot_given, _>(defined(key::$hot), $hot_by)?,)*
            };
            Ok((settings, tunables))
        }

        impl Tunables {
            /// Takes the value that is written for this setting. Of one that is fixed, only the
            /// value that it has: `false` if it is another.
            pub(super) fn take(
                &mut self,
                fixed: &Settings,
                setting: &Setting,
                written: &Written,
            ) -> Result<bool, Failure> {
                match setting.name {
                    $(key::$key => {
                        let value: $value = written.read::<$given, _>(setting, $by)?;
                        return Ok(value == fixed.$key);
                    })*
                    $(key::$hot => {
                        self.$hot = written.read::<$hot_given, _>(setting, $hot_by)?;
                    })*
                    name => unreachable!("{name} is defined"),
                }
                Ok(true)
            }

            /// Each with the value that holds.
            pub fn shown(&self) -> Vec<(&'static Setting, Option<String>)> {
                vec![$((defined(key::$hot), self.$hot.shown()),)*]
            }
        }
    };
}

pub(super) use settings;
