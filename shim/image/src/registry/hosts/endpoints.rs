//! From the settings to endpoints, checked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::HostsError;
use super::file::{HostSettings, HostsFile, read_bounded};
use crate::registry::credentials::is_address_of;
use crate::registry::transport::{Speaker, TlsSettings};
use crate::registry::{DOCKER_HUB, DOCKER_HUB_HOST, host_of, is_loopback, split_port};

/// One place to ask for a registry's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where the distribution protocol's paths begin, ending in `/`: `https://registry.test/v2/`.
    pub(crate) base: Url,
    /// `host` or `host:port`, for messages and credentials.
    pub(crate) host: String,
    /// It serves the registry's images in its stead: it gets no credentials that were given for the registry.
    pub(crate) is_mirror: bool,
    /// May say what a tag means.
    pub(crate) can_resolve: bool,
    /// May be asked for what has a digest.
    pub(crate) can_pull: bool,
    /// Sent to it, and nowhere else.
    pub(crate) headers: HeaderMap,
    /// How it is spoken to.
    pub(crate) speaker: Speaker,
}

/// The endpoints of `registry`, in the order in which they are to be asked. There is at least one.
pub(crate) fn endpoints_of(hosts_dir: Option<&Path>, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let folder = hosts_dir.and_then(|dir| folder_names(registry).into_iter().map(|name| dir.join(name)).find(|path| path.is_dir()));
    let Some(folder) = folder else {
        let source = Source { file: PathBuf::from(registry), folder: PathBuf::new() };
        return Ok(vec![source.endpoint(&default_server(registry), registry, HostSettings::default(), false)?]);
    };
    let source = Source { file: folder.join("hosts.toml"), folder };
    let Some(mut file) = HostsFile::read(&source.file)? else {
        let mut endpoint = source.endpoint(&secure_server(registry), registry, HostSettings::default(), false)?;
        endpoint.speaker.tls = source.docker_certificates()?;
        return Ok(vec![endpoint]);
    };
    let own = file.take_own();
    // What has another name than the registry is a mirror as far as credentials go, wherever it stands in the file.
    let is_mirror = |host: &str| !is_address_of(host, registry.trim_end_matches(":443"));
    let mut endpoints = Vec::new();
    for (url, settings) in file.host.0 {
        let mut endpoint = source.endpoint(&url, &format!("host.{url:?}"), settings, true)?;
        endpoint.is_mirror = is_mirror(&endpoint.host);
        endpoints.push(endpoint);
    }
    let server = file.server.filter(|server| !server.is_empty());
    let mut last = source.endpoint(&server.clone().unwrap_or_else(|| secure_server(registry)), "server", own, false)?;
    last.is_mirror = server.is_some() && is_mirror(&last.host);
    // One that has an entry of its own, and nothing more is said of it, was asked by then.
    let is_asked = |endpoint: &Endpoint| endpoint.base == last.base && endpoint.can_resolve && endpoint.can_pull;
    if last.speaker.tls != TlsSettings::default() || !endpoints.iter().any(is_asked) {
        endpoints.push(last);
    }
    Ok(endpoints)
}

/// How an origin is spoken to that a registry sends us to: as its own folder says, if it has one. A certificate of ours is for who is asked
/// for images, and not shown to whomever a registry names. This blocks.
pub(crate) fn speaker_of(hosts_dir: Option<&Path>, url: &Url) -> Result<Speaker, HostsError> {
    let known = endpoints_of(hosts_dir, &host_of(url))?.into_iter().rev().find(|endpoint| endpoint.base.origin() == url.origin());
    let mut speaker = known.map(|endpoint| endpoint.speaker).unwrap_or_default();
    speaker.tls.identity = None;
    speaker.is_local = url.host_str().is_some_and(is_loopback);
    Ok(speaker)
}

fn folder_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let (name, Some(port)) = split_port(registry) {
        names.push(format!("{name}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    // A name of dots would be another folder.
    names.retain(|name| !name.starts_with('.') && !name.contains('/'));
    names
}

/// Where a registry is that nothing is said about.
fn default_server(registry: &str) -> String {
    match split_port(registry) {
        (name, port) if is_loopback(name) && port != Some("443") => format!("http://{registry}"),
        _ => secure_server(registry),
    }
}

fn secure_server(registry: &str) -> String {
    format!("https://{}", if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry })
}

/// What settings are read from, for errors and relative paths.
struct Source {
    file: PathBuf,
    folder: PathBuf,
}

impl Source {
    fn refused(&self, key: &str, reason: impl Into<String>) -> HostsError {
        HostsError::Value { path: self.file.clone(), key: key.to_owned(), reason: reason.into() }
    }

    fn endpoint(&self, server: &str, key: &str, settings: HostSettings, is_mirror: bool) -> Result<Endpoint, HostsError> {
        let (base, host) = self.base(server, key, settings.override_path)?;
        let (mut can_resolve, mut can_pull) = (true, true);
        if let Some(capabilities) = settings.capabilities {
            (can_resolve, can_pull) = (false, false);
            for capability in capabilities {
                match capability.to_ascii_lowercase().as_str() {
                    "resolve" => can_resolve = true,
                    "pull" => can_pull = true,
                    // podbox pushes nothing, and has no referrers.
                    "push" | "referrers" => {}
                    _ => return Err(self.refused(key, format!("{capability:?} is no capability"))),
                }
            }
        }
        let mut headers = HeaderMap::new();
        for (name, values) in settings.header.0 {
            let name = HeaderName::try_from(&name).map_err(|_| self.refused(key, format!("{name:?} is no header")))?;
            for value in values.into_vec() {
                let mut value = HeaderValue::try_from(value).map_err(|_| self.refused(key, format!("the value of header {name}")))?;
                value.set_sensitive(true);
                headers.append(&name, value);
            }
        }
        let dial = settings.dial_timeout.map(|text| duration(&text).ok_or_else(|| self.refused(key, format!("{text:?} is no duration"))));
        let mut tls = TlsSettings { skip_verify: settings.skip_verify, ..TlsSettings::default() };
        for name in settings.ca.map(|ca| ca.into_vec()).unwrap_or_default() {
            tls.authorities.push(self.read(&self.folder.join(&name))?);
        }
        let identities = settings.client.map(|client| client.into_files()).unwrap_or_default();
        // Servers that want one of several are not known; the first is shown.
        if let Some(files) = identities.into_iter().next() {
            tls.identity = Some(self.read_all(files.iter().map(|name| self.folder.join(name)))?);
        }
        let speaker = Speaker { tls, dial: dial.transpose()?, is_local: base.host_str().is_some_and(is_loopback) };
        Ok(Endpoint { base, host, is_mirror, can_resolve, can_pull, headers, speaker })
    }

    fn base(&self, server: &str, key: &str, override_path: bool) -> Result<(Url, String), HostsError> {
        let with_scheme = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let mut base = Url::parse(&with_scheme).map_err(|error| self.refused(key, format!("{server:?}: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(self.refused(key, format!("{server:?} is no http or https URL")));
        }
        let host = host_of(&base);
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() || base.fragment().is_some() {
            return Err(self.refused(key, "a scheme, a host and a path are due, and nothing else"));
        }
        let path = base.path().trim_end_matches('/');
        let path = if override_path || path.ends_with("/v2") { format!("{path}/") } else { format!("{path}/v2/") };
        base.set_path(&path);
        Ok((base, host))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, HostsError> {
        let absent = || HostsError::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
        read_bounded(path)?.ok_or_else(absent)
    }

    fn read_all(&self, paths: impl Iterator<Item = PathBuf>) -> Result<Vec<u8>, HostsError> {
        let mut bytes = Vec::new();
        for path in paths {
            bytes.extend(self.read(&path)?);
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    /// Authorities and an identity, as docker has them in a folder.
    fn docker_certificates(&self) -> Result<TlsSettings, HostsError> {
        let failed = |source| HostsError::Read { path: self.folder.clone(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        let mut tls = TlsSettings::default();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => tls.authorities.push(self.read(&path)?),
                Some("cert") if tls.identity.is_none() => {
                    tls.identity = Some(self.read_all([path.clone(), path.with_extension("key")].into_iter())?);
                }
                _ => {}
            }
        }
        Ok(tls)
    }
}

/// A duration as Go writes it, of one unit: `10s`, `500ms`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok().filter(|number| *number > 0)?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(folder: &str, text: &str, registry: &str) -> Result<Vec<Endpoint>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(folder);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("hosts.toml"), text).expect("write");
        for name in ["ca.pem", "b.pem", "client.cert", "client.key"] {
            std::fs::write(path.join(name), name).expect("write");
        }
        endpoints_of(Some(dir.path()), registry).map_err(|error| error.to_string().replace(&*path.to_string_lossy(), "DIR"))
    }

    fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect()
    }

    #[test]
    fn without_settings_a_registry_is_itself_and_only_this_machine_is_asked_in_plain_http() {
        for (registry, base) in [
            ("reg.test", "https://reg.test/v2/"),
            ("reg.test:80", "https://reg.test:80/v2/"),
            ("docker.io", "https://registry-1.docker.io/v2/"),
            ("localhost", "http://localhost/v2/"),
            ("localhost:443", "https://localhost/v2/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("127.0.0.1.reg.test:5000", "https://127.0.0.1.reg.test:5000/v2/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2/"),
        ] {
            let endpoints = endpoints_of(None, registry).expect(registry);
            assert_eq!(bases(&endpoints), [base], "{registry}");
            assert!(!endpoints[0].is_mirror && endpoints[0].can_resolve && endpoints[0].can_pull);
        }
    }

    #[test]
    fn a_registry_with_an_entry_of_its_own_is_no_mirror_and_asked_once() {
        let text = "server = \"https://reg.test:5000\"\n[host.\"https://reg.test:5000\"]\nca = \"ca.pem\"\n";
        let endpoints = with("reg.test_5000_", text, "reg.test:5000").expect("well-formed");
        assert_eq!(bases(&endpoints), ["https://reg.test:5000/v2/"]);
        assert!(!endpoints[0].is_mirror && endpoints[0].speaker.tls.authorities.len() == 1);
        let text = format!("ca = \"b.pem\"\n{text}");
        assert_eq!(with("reg.test_5000_", &text, "reg.test:5000").expect("well-formed").len(), 2, "more is said of it");
    }

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file_and_the_registry_last() {
        let text = r#"
            ca = ["ca.pem", "b.pem"]
            [host."https://z.test"]
            capabilities = ["pull"]
            ca = "ca.pem"
            client = [["client.cert", "client.key"]]
            dial_timeout = "3s"
            [host."https://z.test".header]
            x-one = "1"
            x-two = ["2", "3"]
            [host."http://a.test:5000/cache"]
            capabilities = ["pull", "resolve", "push"]
            skip_verify = true
            [host."b.test/v2/prefix"]
            override_path = true
        "#;
        let endpoints = with("reg.test", text, "reg.test").expect("well-formed");
        let expected = ["https://z.test/v2/", "http://a.test:5000/cache/v2/", "https://b.test/v2/prefix/", "https://reg.test/v2/"];
        assert_eq!(bases(&endpoints), expected);
        assert_eq!(
            endpoints.iter().map(|e| (e.is_mirror, e.can_resolve)).collect::<Vec<_>>(),
            [(true, false), (true, true), (true, true), (false, true)]
        );
        let first = &endpoints[0];
        assert_eq!(first.speaker.tls.authorities, [b"ca.pem".to_vec()]);
        assert_eq!(first.speaker.tls.identity.as_deref(), Some(&b"client.cert\nclient.key\n"[..]));
        assert_eq!((first.headers.len(), first.speaker.dial), (3, Some(Duration::from_secs(3))));
        assert!(endpoints[1].speaker.tls.skip_verify && !first.speaker.tls.skip_verify);
        assert_eq!(endpoints[3].speaker.tls.authorities.len(), 2);
    }

    #[test]
    fn the_folder_of_host_and_port_goes_before_the_default() {
        let text = "server = \"https://other.test\"";
        for (folder, registry) in [("reg.test_5000_", "reg.test:5000"), ("reg.test:5000", "reg.test:5000"), ("_default", "reg.test")] {
            let endpoints = with(folder, text, registry).expect(folder);
            assert_eq!(bases(&endpoints), ["https://other.test/v2/"], "{folder}");
            assert!(endpoints[0].is_mirror, "it gets nothing that was meant for {registry}");
        }
        let endpoints = with("reg.test", text, "reg.test:5000").expect("another registry's");
        assert_eq!(bases(&endpoints), ["https://reg.test:5000/v2/"]);
        let endpoints = with("docker.io", "[host.\"https://m.test\"]", "docker.io").expect("well-formed");
        assert_eq!(bases(&endpoints), ["https://m.test/v2/", "https://registry-1.docker.io/v2/"]);
        assert!(!endpoints[1].is_mirror);
    }

    #[test]
    fn what_docker_reads_is_read_where_there_is_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("127.0.0.1_5000_");
        std::fs::create_dir(&path).expect("a folder");
        for name in ["a.crt", "c.cert", "c.key", "notes.txt"] {
            std::fs::write(path.join(name), name).expect("write");
        }
        let endpoints = endpoints_of(Some(dir.path()), "127.0.0.1:5000").expect("well-formed");
        assert_eq!(bases(&endpoints), ["https://127.0.0.1:5000/v2/"], "who has certificates speaks TLS");
        assert_eq!(endpoints[0].speaker.tls.authorities, [b"a.crt".to_vec()]);
        assert_eq!(endpoints[0].speaker.tls.identity.as_deref(), Some(&b"c.cert\nc.key\n"[..]));
    }

    #[test]
    fn who_a_registry_sends_us_to_is_spoken_to_as_its_own_folder_says() {
        let dir = tempfile::tempdir().expect("a directory");
        for (folder, text) in [
            ("reg.test", "skip_verify = true"),
            ("store.test_9000_", "ca = \"ca.pem\"\nclient = \"ca.pem\"\nskip_verify = true"),
            ("elsewhere.test", "server = \"https://other.test\"\nskip_verify = true"),
        ] {
            let path = dir.path().join(folder);
            std::fs::create_dir(&path).expect("a folder");
            std::fs::write(path.join("hosts.toml"), text).expect("write");
            std::fs::write(path.join("ca.pem"), "ca").expect("write");
        }
        let of = |url: &str| speaker_of(Some(dir.path()), &Url::parse(url).expect(url)).expect(url);
        let tls = TlsSettings { authorities: vec![b"ca".to_vec()], identity: None, skip_verify: true };
        assert_eq!(of("https://store.test:9000/a?secret").tls, tls);
        for url in ["https://store.test/", "http://store.test:9000/", "https://reg.test:5000/", "https://elsewhere.test/", "https://[::2]/"]
        {
            assert_eq!(of(url), Speaker::default(), "{url}");
        }
        assert!(of("https://reg.test/").tls.skip_verify);
        assert!(of("https://127.0.0.1:5000/").is_local);
    }

    #[test]
    fn a_mistake_names_the_file_and_the_place() {
        for (text, words) in [
            ("server = 5", &["DIR/hosts.toml", "line 1"][..]),
            ("\n[host.\"https://m.test\"]\ncapabilites = []", &["line 3", "capabilites"]),
            ("server = \"ftp://m.test\"", &["server", "http"]),
            ("server = \"https://user:pw@m.test\"", &["server", "nothing else"]),
            ("[host.\"https://m.test\"]\ncapabilities = [\"pul\"]", &["m.test", "pul"]),
            ("[host.\"https://m.test\"]\nca = \"absent.pem\"", &["absent.pem"]),
            ("[host.\"https://m.test\"]\ndial_timeout = \"1 year\"", &["m.test", "duration"]),
            ("[header]\n\"a b\" = \"x\"", &["server", "header"]),
        ] {
            let error = with("reg.test", text, "reg.test").expect_err(text);
            for word in words {
                assert!(error.contains(word), "{error:?} for {text:?}");
            }
        }
    }
}
