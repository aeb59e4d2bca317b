//! The settings: one typed struct, resolved once, that the rest of `cli` asks. Where they come from: [`Settings::load`].

mod file;
mod load;
mod value;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::load::Settings;
use super::args::Size;
use crate::base::IdRange;
use crate::base::limits::{DEFAULT_BYTES_LIMIT, DEFAULT_INODES_LIMIT};
use crate::fuse::Transport;

/// Every option, commented, with its default: what `sessionfs config --example` prints.
pub const EXAMPLE: &str = include_str!("../../../packaging/sessionfs.toml");

/// Every option. A field's name is the name in a file; what each means is said in [`EXAMPLE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds sessions; always set once the settings are loaded.
    #[serde(deserialize_with = "value::some_absolute")]
    pub store: Option<PathBuf>,
    /// Cap of a new session.
    #[serde(deserialize_with = "value::bytes_cap")]
    pub size: Size,
    /// Cap on inodes of a new session.
    #[serde(deserialize_with = "value::inodes_cap")]
    pub inodes: u64,
    /// Where `run` and `mount` mount when no directory is named.
    #[serde(deserialize_with = "value::absolute")]
    pub mount: PathBuf,
    /// Seconds between SIGTERM and SIGKILL for what the command of a `run` leaves running.
    pub grace: u64,
    /// Whether other users are let in.
    pub allow_other: bool,
    /// How the kernel hands over requests.
    #[serde(serialize_with = "value::as_text", deserialize_with = "value::of_text")]
    pub transport: Transport,
    /// Users whose id is another in the session.
    #[serde(serialize_with = "value::as_texts", deserialize_with = "value::id_map")]
    pub map_uid: Vec<IdRange>,
    /// The same for groups.
    #[serde(serialize_with = "value::as_texts", deserialize_with = "value::id_map")]
    pub map_gid: Vec<IdRange>,
    /// Filter of the log, as env_logger reads it; by `-v` and `--quiet` when not set.
    pub log: Option<String>,
    /// Directories of a session whose content is not kept.
    pub ephemeral: Vec<String>,
    /// Percentages of a session's caps at which it is said that it fills up, ascending.
    #[serde(deserialize_with = "value::percentages")]
    pub soft_limits: Vec<u8>,
    /// When sessions go.
    pub retention: Retention,
    /// What a new version of what runs in the workspace means.
    pub runtime_version: RuntimeVersion,
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Days without use after which a session may be removed, at least 1.
    #[serde(deserialize_with = "value::days")]
    pub idle_days: u32,
    /// Bytes on the disk that all sessions together may take; no bound when not set.
    pub store_bytes: Option<Size>,
    /// Days before its removal from which on a session is shown as expiring.
    pub warn_days: u32,
}

/// `[runtime_version]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeVersion {
    /// What to do when a mount states another version than the session has.
    pub policy: VersionPolicy,
}

/// What becomes of a session's state when a mount states another runtime version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionPolicy {
    /// It is set aside, still reachable, and the session begins empty.
    #[default]
    Checkpoint,
    /// It stays.
    Keep,
    /// It is given up.
    Reset,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            store: None,
            size: Size(DEFAULT_BYTES_LIMIT),
            inodes: DEFAULT_INODES_LIMIT,
            mount: PathBuf::from("/mnt/workspace"),
            grace: 5,
            allow_other: false,
            transport: Transport::Auto,
            map_uid: Vec::new(),
            map_gid: Vec::new(),
            log: None,
            ephemeral: Vec::new(),
            soft_limits: vec![80, 90, 95],
            retention: Retention::default(),
            runtime_version: RuntimeVersion::default(),
        }
    }
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { idle_days: 14, store_bytes: None, warn_days: 2 }
    }
}

impl Config {
    /// Every option with its value, by its whole name (`retention.idle_days`); null is one that is not set.
    pub fn options(&self) -> Vec<(String, serde_json::Value)> {
        fn walk(prefix: &str, value: serde_json::Value, found: &mut Vec<(String, serde_json::Value)>) {
            match value {
                serde_json::Value::Object(section) => {
                    for (name, value) in section {
                        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                        walk(&name, value, found);
                    }
                }
                value => found.push((prefix.to_owned(), value)),
            }
        }
        let mut found = Vec::new();
        // A path that is no UTF-8 has no place in JSON: it is shown as well as it can be.
        let shown =
            Config { store: self.store.as_ref().map(|path| path.to_string_lossy().as_ref().into()), ..self.clone() };
        walk("", serde_json::to_value(shown).unwrap_or_default(), &mut found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_option_and_exactly_the_defaults() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
        // What has no default stands there as a comment, and is right, too.
        let commented = |line: &str| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).map(str::to_owned);
        let all: String = EXAMPLE.lines().map(|line| commented(line).unwrap_or(line.to_owned()) + "\n").collect();
        let parsed: toml::Table = toml::from_str(&all).unwrap();
        toml::from_str::<Config>(&all).unwrap();
        for (name, _) in Config::default().options() {
            let mut parts = name.split('.');
            let first = parts.next().and_then(|first| parsed.get(first));
            let found = parts.fold(first, |at, part| at.and_then(|at| at.get(part)));
            assert!(found.is_some(), "packaging/sessionfs.toml lacks {name}");
        }
    }

    #[test]
    fn options_have_their_whole_names() {
        let names: Vec<String> = Config::default().options().into_iter().map(|(name, _)| name).collect();
        for name in ["store", "size", "retention.store_bytes", "runtime_version.policy"] {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
        }
    }
}
