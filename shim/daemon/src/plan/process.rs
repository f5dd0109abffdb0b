//! What runs, with which environment and as whom: request and image merged.

use super::PlanError;
use crate::request::ContainerConfig;
use podbox_plan::ByteString;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What an image says about the process that runs in it (OCI image config, `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub cmd: Vec<String>,
    /// `Env`, `NAME=value` each.
    pub env: Vec<String>,
    /// `WorkingDir`
    pub working_dir: String,
    /// `Volumes`
    pub volumes: Vec<PathBuf>,
    /// `User`
    pub user: String,
    /// `StopSignal`
    pub stop_signal: String,
}

/// Who a container's processes are, as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the group itself among them.
    pub groups: Vec<u32>,
    /// Home directory by the image's `/etc/passwd`.
    pub home: Option<String>,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The argument vector: a command of the request stands for the image's entrypoint *and* cmd, args only for its cmd.
pub(super) fn arguments(config: &ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, PlanError> {
    let arguments: Vec<String> = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => config.command.iter().chain(&config.args).cloned().collect(),
        (true, false) => image.entrypoint.iter().chain(&config.args).cloned().collect(),
        (true, true) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if arguments.first().is_none_or(String::is_empty) { Err(PlanError::NoCommand) } else { Ok(arguments) }
}

/// The environment: what runtimes set, then the image's, then the request's; a later one replaces an earlier in its place.
pub(super) fn environment(config: &ContainerConfig, image: &ImageDefaults, hostname: &str, user: &PodUser) -> Vec<ByteString> {
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut variables: Vec<ByteString> = Vec::new();
    let mut set = |name: &str, value: &[u8]| {
        let variable = ByteString([name.as_bytes(), b"=", value].concat());
        match names.get(name) {
            Some(index) => variables[*index] = variable,
            None => {
                names.insert(name.to_owned(), variables.len());
                variables.push(variable);
            }
        }
    };
    set("PATH", DEFAULT_PATH.as_bytes());
    set("HOSTNAME", hostname.as_bytes());
    set("HOME", user.home.as_deref().unwrap_or("/").as_bytes());
    if config.tty {
        set("TERM", b"xterm");
    }
    for variable in &image.env {
        // A NUL would end the string early for the kernel; a nameless variable is nobody's.
        if let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty() && !variable.contains('\0')) {
            set(name, value.as_bytes());
        }
    }
    for (name, value) in &config.envs {
        set(name, &value.0);
    }
    variables
}

/// The working directory; an image's relative one is meant from the root.
pub(super) fn working_directory(config: &ContainerConfig, image: &ImageDefaults) -> PathBuf {
    config.working_dir.clone().unwrap_or_else(|| Path::new("/").join(&image.working_dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_proto::v1;

    fn config(command: &[&str], args: &[&str], envs: &[(&str, &[u8])]) -> ContainerConfig {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "i".to_owned(), ..Default::default() }),
            command: strings(command),
            args: strings(args),
            envs: envs.iter().map(|(key, value)| v1::KeyValue { key: (*key).to_owned(), value: value.to_vec() }).collect(),
            ..Default::default()
        };
        config.try_into().expect("valid")
    }

    fn image() -> ImageDefaults {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ImageDefaults {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["cmd"]),
            env: strings(&["PATH=/image", "A=1"]),
            ..Default::default()
        }
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd_as_the_cri_says() {
        for (command, args, want) in [
            (&[][..], &[][..], &["/entry", "cmd"][..]),
            (&[], &["x"], &["/entry", "x"]),
            (&["/c"], &[], &["/c"]),
            (&["/c"], &["x"], &["/c", "x"]),
        ] {
            assert_eq!(arguments(&config(command, args, &[]), &image()).expect("a command"), want);
        }
        assert_eq!(arguments(&config(&[], &[], &[]), &ImageDefaults::default()), Err(PlanError::NoCommand));
    }

    #[test]
    fn the_request_overrides_the_image_and_bytes_pass_unchanged() {
        let user = PodUser { uid: 0, gid: 0, groups: vec![], home: Some("/root".to_owned()) };
        let got = environment(&config(&[], &[], &[("A", b"\xff\xfe"), ("B", b"")]), &image(), "host", &user);
        let want: [&[u8]; 5] = [b"PATH=/image", b"HOSTNAME=host", b"HOME=/root", b"A=\xff\xfe", b"B="];
        assert_eq!(got.iter().map(|variable| variable.0.as_slice()).collect::<Vec<_>>(), want);
    }
}
