//! The configuration file: every key optional, every default a value, every mistake an error with file, line and key.
//!
//! The keys and their defaults are a contract. Values are checked while they are parsed, so that an error knows its place in the
//! file.

mod error;
mod origin;
mod value;

pub use error::ConfigError;
pub use value::{
    AbsolutePath, BridgeName, CgroupParent, IdleTimeout, ListenAddress, OptionalAddress, ProgressTimeout, RegistryHost, Subnets,
};

use origin::Origin;
use podbox_image::{AuthFile, Patience, PullOptions};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The CRI socket, mode 0660.
    pub socket: SocketPath,
    /// Boot-scoped state: records, monitor sockets, files of pods.
    pub state_dir: StateDir,
    /// Images, layers and the containers' own layers.
    pub root_dir: RootDir,
    /// How much is logged.
    pub log_level: LogLevel,
    /// Cgroups.
    pub cgroup: CgroupConfig,
    /// The built-in pod network.
    pub network: NetworkConfig,
    /// Images and registries.
    pub image: ImageConfig,
    /// The server of exec, attach and port-forward.
    pub stream: StreamConfig,
    /// podbox's own metrics.
    pub metrics: MetricsConfig,
    /// The file it was read from.
    #[serde(skip)]
    origin: Origin,
}

macro_rules! path_with_default {
    ($(#[$doc:meta])* $name:ident, $default:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub AbsolutePath);

        impl Default for $name {
            fn default() -> Self {
                Self(AbsolutePath::constant($default))
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                self.0.as_ref()
            }
        }
    };
}

path_with_default! {
    /// `socket`
    SocketPath, "/run/podbox/podbox.sock"
}
path_with_default! {
    /// `state_dir`
    StateDir, "/run/podbox"
}
path_with_default! {
    /// `root_dir`
    RootDir, "/var/lib/podbox"
}
path_with_default! {
    /// `image.hosts_dir`
    HostsDir, "/etc/podbox/hosts"
}
path_with_default! {
    /// `image.auth_file`
    AuthFilePath, "/etc/podbox/auth.json"
}

/// `log_level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And what may become one.
    Warn,
    /// And one line an RPC.
    #[default]
    Info,
    /// And each step.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As tracing's filters spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupConfig {
    /// Where pods go whose request names no cgroup_parent.
    pub parent: CgroupParent,
    /// Who makes cgroups.
    pub driver: CgroupDriver,
}

/// `cgroup.driver`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Whichever the host uses.
    #[default]
    Auto,
    /// podbox itself, in the cgroup file systems.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Name of the bridge that pods hang on.
    pub bridge: BridgeName,
    /// Networks that pods get their addresses from, one address of each.
    pub subnets: Subnets,
}

/// `[image]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageConfig {
    /// The registry that short names mean.
    pub default_registry: RegistryHost,
    /// Per-registry settings in containerd's `hosts.toml` layout.
    pub hosts_dir: HostsDir,
    /// Credentials for pulls that bring none, as docker's `config.json` has them.
    pub auth_file: AuthFilePath,
    /// A registry that sends nothing for so long is given up on.
    pub progress_timeout_seconds: ProgressTimeout,
    /// Names of images that the kubelet is told not to remove.
    pub pinned: Vec<String>,
}

impl ImageConfig {
    /// What pulls are to keep to.
    pub fn pull_options(&self) -> PullOptions {
        PullOptions {
            hosts_dir: Some(self.hosts_dir.as_ref().to_owned()),
            auth_file: Some(AuthFile::new(self.auth_file.as_ref())),
            patience: Patience { progress: Duration::from_secs(self.progress_timeout_seconds.seconds().into()), ..Patience::default() },
            ..PullOptions::default()
        }
    }
}

/// `[stream]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Where exec, attach and port-forward sessions are taken.
    pub address: ListenAddress,
    /// A session in which nothing moves for so long is ended.
    pub idle_timeout_seconds: IdleTimeout,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where metrics are served; empty: nowhere.
    pub address: OptionalAddress,
}

impl Config {
    /// Reads a file; `None` is all defaults.
    ///
    /// # Errors
    /// Names the file, and where it is the file's content that is wrong, the line and the key.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::at(path, &text, &error))?;
        Ok(Self { origin: Origin::new(path, text), ..config })
    }

    /// The error of a value that is well-formed and cannot be used: it names the place in the file as one found by parsing does.
    /// `key` is spelled with its table: `cgroup.driver`.
    pub fn refused(&self, key: &'static str, reason: &str) -> ConfigError {
        match self.origin.place_of(key) {
            Some((path, line)) => ConfigError::Content { path: path.to_owned(), line, key: key.to_owned(), reason: reason.to_owned() },
            None => ConfigError::Default { key, reason: reason.to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("podbox.toml");
        std::fs::write(&path, text).expect("write");
        let error = Config::load(Some(&path)).expect_err(text).to_string();
        error.replace(&path.display().to_string(), "FILE")
    }

    /// The file of the README: what stands there is what holds without it.
    #[test]
    fn the_documented_file_is_the_default() {
        let text = r#"
socket    = "/run/podbox/podbox.sock"
state_dir = "/run/podbox"
root_dir  = "/var/lib/podbox"
log_level = "info"
[cgroup]
parent = "/podbox"
driver = "auto"
[network]
bridge  = "podbox0"
subnets = ["10.88.0.0/16", "fd00:10:88::/64"]
[image]
default_registry = "docker.io"
hosts_dir = "/etc/podbox/hosts"
auth_file = "/etc/podbox/auth.json"
progress_timeout_seconds = 60
pinned = []
[stream]
address = "127.0.0.1:0"
idle_timeout_seconds = 14400
[metrics]
address = ""
"#;
        assert_eq!(toml::from_str::<Config>(text).expect("parses"), Config::default());
        assert_eq!(toml::from_str::<Config>("").expect("parses"), Config::default());
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        for (text, line, key, why) in [
            ("log_level = \"info\"\nsocke = \"/x\"\n", 2, "socke", "unknown field"),
            ("[network]\n\nbridg = \"x\"\n", 3, "network.bridg", "unknown field"),
            ("socket = \"relative\"\n", 1, "socket", "absolute"),
            ("socket = 7\n", 1, "socket", "invalid type"),
            ("log_level = \"loud\"\n", 1, "log_level", "unknown variant"),
            ("[network]\nbridge = \"a name that is too long\"\n", 2, "network.bridge", "15"),
            ("[network]\nbridge = \"ok\"\nsubnets = [\"10.88.0.0/16\",\n  \"10.0.0.0/99\"]\n", 3, "network.subnets", "invalid"),
            ("[cgroup]\nparent = \"/a/../b\"\n", 2, "cgroup.parent", ".."),
            ("[cgroup]\ndriver = \"none\"\n", 2, "cgroup.driver", "unknown variant"),
            ("[stream]\naddress = \"localhost\"\n", 2, "stream.address", "address"),
            ("[stream]\nidle_timeout_seconds = 0\n", 2, "stream.idle_timeout_seconds", "604800"),
            ("[nowhere]\na = 1\n", 1, "nowhere", "unknown field"),
            ("[network]\n# a comment\nsubnets = []\n", 3, "network.subnets", "no pod subnet"),
            ("[network]\nsubnets = [\"10.88.0.1/16\"]\n", 2, "network.subnets", "10.88.0.0/16"),
            ("[network]\nsubnets = [\"10.0.0.0/31\"]\n", 2, "network.subnets", "too small"),
            ("[network]\nsubnets = [\"10.0.0.0/8\", \"10.1.0.0/16\"]\n", 2, "network.subnets", "overlap"),
            ("[network]\nbridge = \"all\"\n", 2, "network.bridge", "all"),
            ("[metrics]\naddress = \"9500\"\n", 2, "metrics.address", "address"),
            ("[metrics]\naddress = \"0.0.0.0:9500\"\n", 2, "metrics.address", "0.0.0.0:9500"),
            ("[metrics]\naddress = \"[2001:db8::1]:9500\"\n", 2, "metrics.address", "2001:db8::1"),
            ("[image]\nhosts_dir = \"hosts\"\n", 2, "image.hosts_dir", "absolute"),
            ("[image]\nprogress_timeout_seconds = 0\n", 2, "image.progress_timeout_seconds", "3600"),
        ] {
            let error = error_of(text);
            assert!(error.starts_with(&format!("FILE:{line}: {key}: ")), "{error:?} for {text:?}");
            assert!(error.contains(why), "{error:?} for {text:?}");
        }
        assert!(error_of("socket = \n").starts_with("FILE:1: "));
    }

    #[test]
    fn metrics_are_for_this_machine_alone() {
        for address in ["127.0.0.1:9500", "127.8.0.1:0", "[::1]:9500", "[::ffff:127.0.0.1]:9500"] {
            let config = toml::from_str::<Config>(&format!("metrics.address = {address:?}")).expect(address);
            assert_eq!(config.metrics.address.0, Some(address.parse().expect("an address")));
        }
    }

    /// However a key is spelled, what is found out about it later still knows its line.
    #[test]
    fn a_value_that_is_refused_after_parsing_names_file_line_and_key_too() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("podbox.toml");
        for text in ["\n[cgroup]\ndriver = \"systemd\"\n", "\n\ncgroup.driver = \"systemd\"\n", "\n\ncgroup = { driver = \"systemd\" }"] {
            std::fs::write(&path, text).expect("write");
            let error = Config::load(Some(&path)).expect("well-formed").refused("cgroup.driver", "no").to_string();
            assert_eq!(error, format!("{}:3: cgroup.driver: no", path.display()), "{text:?}");
        }
        assert_eq!(Config::default().refused("cgroup.driver", "no").to_string(), "cgroup.driver, as it is by default: no");
    }
}
