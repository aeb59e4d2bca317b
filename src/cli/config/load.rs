//! Where the settings come from: the command line, the environment, the store's own file, the host's, the defaults; the
//! first that names an option decides. (What a command's own flags say, the command lays over it.)

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, file};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::session::StoreDir;

/// The host's file, unless `SESSIONFS_CONFIG` names another.
const HOST_FILE: &str = "/etc/sessionfs.toml";
/// The store's own, in the store.
const STORE_FILE: &str = "sessionfs.toml";
/// Names the host's file.
const FILE_VARIABLE: &str = "SESSIONFS_CONFIG";
/// `run` tells its command by `SESSIONFS_MOUNT` where the workspace is: no setting of what that command starts.
const NOT_A_VARIABLE: &str = "mount";

/// Who has set an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// `--store`.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::Flag(flag) => write!(f, "{flag}"),
            Source::Variable(name) => write!(f, "{name}"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The settings, and where each comes from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings.
    pub config: Config,
    sources: BTreeMap<String, Source>,
}

/// A look into the environment. A variable that is set to nothing is not set.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Settings {
    /// Resolves them for this process, and the store with them.
    pub fn load(store: Option<&Path>) -> Result<(StoreDir, Settings), Failure> {
        // SAFETY: geteuid cannot fail and touches no memory.
        let uid = unsafe { libc::geteuid() };
        Settings::of(store, uid, &|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of(store: Option<&Path>, uid: u32, env: Environment) -> Result<(StoreDir, Settings), Failure> {
        let host = host_file(env)?;
        let (store, store_source) = find_store(store, uid, env, host.as_ref())?;
        let own = store_file(&store)?;

        let mut merged = Table::new();
        let mut sources = BTreeMap::new();
        for (path, table) in [host, own].into_iter().flatten() {
            overlay(&mut merged, table, "", &Source::File(path), &mut sources);
        }
        for (name, _) in Config::default().options() {
            let variable = variable_of(&name);
            if let Some(text) = env(&variable).filter(|_| name != "store" && name != NOT_A_VARIABLE) {
                let table = of_variable(&name, &variable, &text)?;
                overlay(&mut merged, table, "", &Source::Variable(variable), &mut sources);
            }
        }
        merged.remove("store");
        let mut config = Value::Table(merged)
            .try_into::<Config>()
            .map_err(|error| Failure::new(Exit::BadSettings, format!("the settings together: {}", error.message())))?;
        config.store = Some(store.path().to_owned());
        sources.insert("store".to_owned(), store_source);
        Ok((store, Settings { config, sources }))
    }

    /// Who has set an option, by its whole name.
    pub fn source(&self, option: &str) -> &Source {
        self.sources.get(option).unwrap_or(&Source::Default)
    }
}

fn host_file(env: Environment) -> Result<Option<(PathBuf, Table)>, Failure> {
    let named = env(FILE_VARIABLE).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| HOST_FILE.into());
    match (file::read(&path, false)?, named) {
        (Some(table), _) => Ok(Some((path, table))),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(Failure::new(Exit::BadSettings, format!("{FILE_VARIABLE}: there is no {}", path.display()))
                .hint(format!("sessionfs config --example > {}", path.display())))
        }
    }
}

fn find_store(
    flag: Option<&Path>,
    uid: u32,
    env: Environment,
    host: Option<&(PathBuf, Table)>,
) -> Result<(StoreDir, Source), Failure> {
    let variable = variable_of("store");
    if let Some(path) = flag {
        return Ok((StoreDir::at(path)?, Source::Flag("--store")));
    }
    if let Some(path) = env(&variable) {
        return Ok((StoreDir::at(Path::new(&path))?, Source::Variable(variable)));
    }
    if let Some((file, Value::String(path))) = host.and_then(|(file, table)| Some((file, table.get("store")?))) {
        return Ok((StoreDir::at(Path::new(path))?, Source::File(file.clone())));
    }
    Ok((StoreDir::default_for(uid, &|name| env(name).map(Into::into))?, Source::Default))
}

fn store_file(store: &StoreDir) -> Result<Option<(PathBuf, Table)>, Failure> {
    let path = store.path().join(STORE_FILE);
    let Some(table) = file::read(&path, true)? else { return Ok(None) };
    if table.contains_key("store") {
        let text = format!("{}: store: a store's own settings cannot say where it is", path.display());
        return Err(Failure::new(Exit::BadSettings, text).hint(format!("the line belongs into {HOST_FILE}")));
    }
    Ok(Some((path, table)))
}

/// The environment variable of an option: `retention.idle_days` is `SESSIONFS_RETENTION_IDLE_DAYS`.
fn variable_of(option: &str) -> String {
    format!("SESSIONFS_{}", option.replace('.', "_").to_ascii_uppercase())
}

/// A variable as a file that sets this one option. Its text is the value as a file has it, quotes and brackets left out
/// where people leave them out.
fn of_variable(option: &str, variable: &str, text: &OsString) -> Result<Table, Failure> {
    let bad =
        |why: &str| Failure::new(Exit::BadSettings, format!("{variable}: {why}")).hint("sessionfs config --example");
    let text = text.to_str().ok_or_else(|| bad("no UTF-8"))?;
    let read = |text: &str| format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let list = text.split(',').map(|part| Value::String(part.trim().to_owned())).collect();
    let forms =
        [Some(Value::String(text.to_owned())), read(text), read(&format!("[{text}]")), Some(Value::Array(list))];
    let mut first = None;
    for value in forms.into_iter().flatten() {
        let table = nested(option, value);
        match Value::Table(table.clone()).try_into::<Config>() {
            Ok(_) => return Ok(table),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    Err(bad(first.as_ref().map_or("it makes no sense", |error| error.message())))
}

fn nested(option: &str, value: Value) -> Table {
    match option.split_once('.') {
        None => Table::from_iter([(option.to_owned(), value)]),
        Some((section, rest)) => Table::from_iter([(section.to_owned(), Value::Table(nested(rest, value)))]),
    }
}

/// Lays one layer over those before it, and notes whose every option is.
fn overlay(under: &mut Table, over: Table, prefix: &str, source: &Source, sources: &mut BTreeMap<String, Source>) {
    for (key, value) in over {
        let name = format!("{prefix}{key}");
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => {
                overlay(under, over, &format!("{name}."), source, sources);
            }
            (None, Value::Table(over)) => {
                let mut section = Table::new();
                overlay(&mut section, over, &format!("{name}."), source, sources);
                under.insert(key, Value::Table(section));
            }
            (_, value) => {
                under.insert(key, value);
                sources.insert(name, source.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::cli::args::Size;
    use crate::cli::config::VersionPolicy;
    use crate::fuse::Transport;

    /// A host's file, a store with its own, and an environment.
    fn resolve(host: &str, own: &str, flag: bool, env: &[(&str, &str)]) -> (TempDir, Result<Settings, Failure>) {
        let temp = tempfile::tempdir().unwrap();
        let (file, store) = (temp.path().join("host.toml"), temp.path().join("store"));
        std::fs::create_dir(&store).unwrap();
        for (path, text) in [(&file, host), (&store.join("sessionfs.toml"), own)] {
            let text = text.replace("STORE", store.to_str().unwrap());
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        let mut all: BTreeMap<String, OsString> =
            env.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        all.insert(FILE_VARIABLE.to_owned(), file.into());
        let settings = Settings::of(flag.then_some(store.as_path()), 7, &|name| all.get(name).cloned());
        (temp, settings.map(|(_, settings)| settings))
    }

    #[test]
    fn the_flag_then_the_environment_then_the_store_then_the_host() {
        let host = "store = \"STORE\"\nsize = \"1T\"\ngrace = 9\n[retention]\nidle_days = 30\nwarn_days = 5\n";
        let own = "size = \"2T\"\ninodes = 77\n[retention]\nidle_days = 60\n";
        let env = [("SESSIONFS_INODES", "88"), ("SESSIONFS_RETENTION_STORE_BYTES", "5G")];
        let (temp, settings) = resolve(host, own, false, &env);
        let settings = settings.unwrap();
        let config = &settings.config;
        let store = temp.path().join("store");
        assert_eq!(config.store.as_deref(), Some(store.as_path()));
        assert_eq!((config.size, config.inodes, config.grace), (Size(2 << 40), 88, 9));
        assert_eq!((config.retention.idle_days, config.retention.warn_days), (60, 5));
        assert_eq!(config.retention.store_bytes, Some(Size(5 << 30)));
        let (host, own) = (Source::File(temp.path().join("host.toml")), Source::File(store.join("sessionfs.toml")));
        for (option, source) in [
            ("store", &host),
            ("size", &own),
            ("inodes", &Source::Variable("SESSIONFS_INODES".into())),
            ("grace", &host),
            ("retention.idle_days", &own),
            ("retention.warn_days", &host),
            ("retention.store_bytes", &Source::Variable("SESSIONFS_RETENTION_STORE_BYTES".into())),
            ("transport", &Source::Default),
        ] {
            assert_eq!(settings.source(option), source, "{option}");
        }
        let (temp, settings) = resolve("store = \"/elsewhere\"\n", "", true, &[("SESSIONFS_STORE", "/nowhere")]);
        let settings = settings.unwrap();
        assert_eq!(settings.config.store, Some(temp.path().join("store")));
        assert_eq!(settings.source("store"), &Source::Flag("--store"));
    }

    #[test]
    fn every_option_can_be_set_by_its_variable() {
        let env = [
            ("SESSIONFS_STORE", "/s"),
            ("SESSIONFS_SIZE", "1048576"),
            ("SESSIONFS_GRACE", "0"),
            ("SESSIONFS_ALLOW_OTHER", "true"),
            ("SESSIONFS_TRANSPORT", "device"),
            ("SESSIONFS_MAP_UID", "1000:0,5:6:7"),
            ("SESSIONFS_MAP_GID", "[\"1:2\"]"),
            ("SESSIONFS_LOG", "fuser=debug,info"),
            ("SESSIONFS_EPHEMERAL", "target/, .cache/"),
            ("SESSIONFS_SOFT_LIMITS", "50,60"),
            ("SESSIONFS_RETENTION_IDLE_DAYS", "1"),
            ("SESSIONFS_RUNTIME_VERSION_POLICY", "keep"),
            // What `run` tells its command.
            ("SESSIONFS_MOUNT", "/elsewhere"),
        ];
        let (_temp, settings) = resolve("", "", false, &env);
        let config = settings.unwrap().config;
        let range = |text: &str| text.parse().unwrap();
        let expected = Config {
            store: Some("/s".into()),
            size: Size(1 << 20),
            grace: 0,
            allow_other: true,
            transport: Transport::Device,
            map_uid: vec![range("1000:0"), range("5:6:7")],
            map_gid: vec![range("1:2")],
            log: Some("fuser=debug,info".into()),
            ephemeral: vec!["target/".into(), ".cache/".into()],
            soft_limits: vec![50, 60],
            retention: super::super::Retention { idle_days: 1, ..Default::default() },
            runtime_version: super::super::RuntimeVersion { policy: VersionPolicy::Keep },
            ..Config::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let fails = |host: &str, own: &str, env: &[(&str, &str)]| resolve(host, own, true, env).1.unwrap_err();
        let error = fails("", "", &[("SESSIONFS_GRACE", "soon")]);
        assert_eq!(error.exit, Exit::BadSettings);
        assert!(error.message.starts_with("SESSIONFS_GRACE: invalid type: string \"soon\""), "{}", error.message);
        let error = fails("", "store = \"/x\"\n", &[]);
        assert!(error.message.contains("sessionfs.toml: store: a store's own"), "{}", error.message);
        let error = fails("", "grcae = 1\n", &[]);
        assert!(error.message.contains("store/sessionfs.toml:1: there is no option grcae"), "{}", error.message);
        let missing = Settings::of(None, 7, &|name| (name == FILE_VARIABLE).then(|| "/none.toml".into()));
        assert!(missing.unwrap_err().message.contains("there is no /none.toml"));
    }
}
