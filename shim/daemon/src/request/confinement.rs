//! What confines processes beside namespaces and capabilities: seccomp, AppArmor, SELinux.
//!
//! Each profile has a field of its own and a deprecated one with a name in it; the deprecated one counts where the other is absent.

use super::RequestError;
use super::common::{absolute_path, bounded_text, has_parent_component, shortened};
use podbox_proto::v1;
use podbox_proto::v1::security_profile::ProfileType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The system calls that a process may make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// All.
    #[default]
    Unconfined,
    /// As podbox's own profile says.
    RuntimeDefault,
    /// As the profile in this file says.
    Localhost(PathBuf),
}

/// The AppArmor profile that a process is under.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// podbox's own where the node has AppArmor, which is what saying nothing means (CRI, `apparmor_profile`).
    #[default]
    Unspecified,
    /// None.
    Unconfined,
    /// podbox's own.
    RuntimeDefault,
    /// One of this name that is loaded.
    Localhost(String),
}

/// Parts of an SELinux context; an empty one is the default's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxContext {
    /// `system_u`
    pub user: String,
    /// `system_r`
    pub role: String,
    /// `container_t`
    pub kind: String,
    /// `s0:c1,c2`
    pub level: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confinement {
    /// System calls.
    pub seccomp: SeccompProfile,
    /// AppArmor.
    pub apparmor: AppArmorProfile,
    /// SELinux; `None`: nothing was asked for.
    pub selinux: Option<SelinuxContext>,
}

/// The fields of a security context.
pub(super) struct ConfinementFields<'a> {
    pub seccomp: Option<&'a v1::SecurityProfile>,
    pub seccomp_path: &'a str,
    pub apparmor: Option<&'a v1::SecurityProfile>,
    pub apparmor_name: &'a str,
    pub selinux: Option<&'a v1::SeLinuxOption>,
}

const SECCOMP: &str = "config.linux.security_context.seccomp";
const SECCOMP_REF: &str = "config.linux.security_context.seccomp.localhost_ref";
const SECCOMP_PATH: &str = "config.linux.security_context.seccomp_profile_path";
const APPARMOR: &str = "config.linux.security_context.apparmor";
const APPARMOR_REF: &str = "config.linux.security_context.apparmor.localhost_ref";
const APPARMOR_NAME: &str = "config.linux.security_context.apparmor_profile";
const SELINUX: &str = "config.linux.security_context.selinux_options";
/// How names of files and profiles of the node begin.
const LOCALHOST: &str = "localhost/";

impl TryFrom<ConfinementFields<'_>> for Confinement {
    type Error = RequestError;

    fn try_from(fields: ConfinementFields<'_>) -> Result<Self, RequestError> {
        Ok(Self {
            seccomp: match fields.seccomp {
                Some(profile) => seccomp(profile)?,
                None => seccomp_by_path(fields.seccomp_path)?,
            },
            apparmor: match fields.apparmor {
                Some(profile) => apparmor(profile)?,
                None => apparmor_by_name(fields.apparmor_name)?,
            },
            selinux: fields.selinux.filter(|options| **options != v1::SeLinuxOption::default()).map(selinux).transpose()?,
        })
    }
}

fn kind(field: &'static str, profile: &v1::SecurityProfile) -> Result<ProfileType, RequestError> {
    let number = profile.profile_type;
    ProfileType::try_from(number).map_err(|_| RequestError::invalid(field, format!("{number} is no profile type")))
}

fn seccomp(profile: &v1::SecurityProfile) -> Result<SeccompProfile, RequestError> {
    Ok(match kind(SECCOMP, profile)? {
        ProfileType::Unconfined => SeccompProfile::Unconfined,
        ProfileType::RuntimeDefault => SeccompProfile::RuntimeDefault,
        ProfileType::Localhost => localhost_seccomp(SECCOMP_REF, &profile.localhost_ref)?,
    })
}

fn seccomp_by_path(text: &str) -> Result<SeccompProfile, RequestError> {
    match text {
        "" | "unconfined" => Ok(SeccompProfile::Unconfined),
        "runtime/default" | "docker/default" => Ok(SeccompProfile::RuntimeDefault),
        text if text.starts_with(LOCALHOST) => localhost_seccomp(SECCOMP_PATH, text),
        text => Err(RequestError::invalid(SECCOMP_PATH, format!("{:?} is no profile", shortened(text)))),
    }
}

fn localhost_seccomp(field: &'static str, text: &str) -> Result<SeccompProfile, RequestError> {
    let path = absolute_path(field, text.strip_prefix(LOCALHOST).unwrap_or(text))?;
    if has_parent_component(&path) {
        return Err(RequestError::invalid(field, "a path without `..` is due"));
    }
    Ok(SeccompProfile::Localhost(path))
}

fn apparmor(profile: &v1::SecurityProfile) -> Result<AppArmorProfile, RequestError> {
    Ok(match kind(APPARMOR, profile)? {
        ProfileType::Unconfined => AppArmorProfile::Unconfined,
        ProfileType::RuntimeDefault => AppArmorProfile::RuntimeDefault,
        ProfileType::Localhost => localhost_apparmor(APPARMOR_REF, &profile.localhost_ref)?,
    })
}

fn apparmor_by_name(text: &str) -> Result<AppArmorProfile, RequestError> {
    match text {
        "" => Ok(AppArmorProfile::Unspecified),
        "unconfined" => Ok(AppArmorProfile::Unconfined),
        "runtime/default" => Ok(AppArmorProfile::RuntimeDefault),
        text if text.starts_with(LOCALHOST) => localhost_apparmor(APPARMOR_NAME, text),
        text => Err(RequestError::invalid(APPARMOR_NAME, format!("{:?} is no profile", shortened(text)))),
    }
}

/// The name goes into a list of lines and into a command of the kernel's; callers write it with the prefix or without.
fn localhost_apparmor(field: &'static str, text: &str) -> Result<AppArmorProfile, RequestError> {
    let name = bounded_text(field, text.strip_prefix(LOCALHOST).unwrap_or(text).to_owned())?;
    if name.is_empty() || name == "unconfined" {
        return Err(RequestError::invalid(field, "the name of a profile is due"));
    }
    Ok(AppArmorProfile::Localhost(name))
}

fn selinux(options: &v1::SeLinuxOption) -> Result<SelinuxContext, RequestError> {
    let part = |name: &str, text: &str| {
        let is_word = text.len() <= 255 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if is_word { Ok(text.to_owned()) } else { Err(RequestError::invalid(format!("{SELINUX}.{name}"), "a name is due")) }
    };
    if !is_level(&options.level) {
        let reason = format!("{:?} is no level: s0:c1,c2 is one", shortened(&options.level));
        return Err(RequestError::invalid(format!("{SELINUX}.level"), reason));
    }
    Ok(SelinuxContext {
        user: part("user", &options.user)?,
        role: part("role", &options.role)?,
        kind: part("type", &options.r#type)?,
        level: options.level.clone(),
    })
}

/// `s0`, `s0:c1,c2`, `s0:c1.c3`, `s0-s1:c1`: sensitivities and categories by number. None at all is the default's.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| {
        let digits = text.strip_prefix(letter).unwrap_or_default();
        !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let categories = |text: &str| text.split(['.', ',']).all(|category| number(category, 'c'));
    let range = |text: &str| match text.split_once(':') {
        Some((sensitivity, rest)) => number(sensitivity, 's') && categories(rest),
        None => number(text, 's'),
    };
    text.is_empty() || (text.len() <= 255 && text.split('-').count() <= 2 && text.split('-').all(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(change: impl FnOnce(&mut ConfinementFields<'a>)) -> Result<Confinement, RequestError> {
        let mut fields = ConfinementFields { seccomp: None, seccomp_path: "", apparmor: None, apparmor_name: "", selinux: None };
        change(&mut fields);
        fields.try_into()
    }

    fn profile(kind: ProfileType, name: &str) -> v1::SecurityProfile {
        v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() }
    }

    #[test]
    fn the_field_of_its_own_counts_and_the_deprecated_one_only_without_it() {
        let unconfined = profile(ProfileType::Unconfined, "");
        let both = asked(|fields| (fields.seccomp, fields.seccomp_path) = (Some(&unconfined), "runtime/default")).expect("valid");
        assert_eq!(both.seccomp, SeccompProfile::Unconfined);
        let both = asked(|fields| (fields.apparmor, fields.apparmor_name) = (Some(&unconfined), "localhost/x")).expect("valid");
        assert_eq!(both.apparmor, AppArmorProfile::Unconfined);
        for (text, want) in [
            ("", SeccompProfile::Unconfined),
            ("runtime/default", SeccompProfile::RuntimeDefault),
            ("localhost//a/b.json", SeccompProfile::Localhost("/a/b.json".into())),
        ] {
            assert_eq!(asked(|fields| fields.seccomp_path = text).expect("valid").seccomp, want);
        }
        for (text, want) in [
            ("", AppArmorProfile::Unspecified),
            ("unconfined", AppArmorProfile::Unconfined),
            ("localhost/a", AppArmorProfile::Localhost("a".to_owned())),
        ] {
            assert_eq!(asked(|fields| fields.apparmor_name = text).expect("valid").apparmor, want);
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for name in ["", "localhost/", "relative", "localhost/relative", "/a/../b", "/a\0b"] {
            let profile = profile(ProfileType::Localhost, name);
            let error = asked(|fields| fields.seccomp = Some(&profile)).expect_err(name);
            assert!(error.to_string().contains("seccomp.localhost_ref"), "{error}");
        }
        for name in ["", "localhost/", "a\nb", "localhost/unconfined"] {
            let profile = profile(ProfileType::Localhost, name);
            let error = asked(|fields| fields.apparmor = Some(&profile)).expect_err(name);
            assert!(error.to_string().contains("apparmor.localhost_ref"), "{error}");
        }
        assert!(asked(|fields| fields.seccomp_path = "whatever").is_err());
        assert!(asked(|fields| fields.apparmor_name = "whatever").is_err());
    }

    #[test]
    fn levels_are_what_selinux_has() {
        for level in ["s0", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0-s15:c0.c1023"] {
            let options = v1::SeLinuxOption { level: level.to_owned(), ..Default::default() };
            assert!(asked(|fields| fields.selinux = Some(&options)).is_ok(), "{level}");
        }
        for level in ["0", "s", "s0:", "s0:1", "s0,c1", "s0:c1;c2", "s0-s1-s2", "s0:c1 ", "s0:c12345"] {
            let options = v1::SeLinuxOption { level: level.to_owned(), ..Default::default() };
            assert!(asked(|fields| fields.selinux = Some(&options)).is_err(), "{level}");
        }
    }
}
