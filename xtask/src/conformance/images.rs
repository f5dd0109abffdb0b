//! The images that critest asks for, made of Debian's packages.
//!
//! They carry the names of those that critest's authors publish, and what its specs rely on: accounts, applets, a web server, how many of them are
//! the same image. Nothing else of theirs is in them.

use crate::packages;
use crate::setup;
use anyhow::{Context, Result, bail, ensure};
use podbox_tests::{Content, TestImage};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the specs' own images are, in the registry.
const STAGING: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";
/// What programs are taken from, with all that they depend on.
const PACKAGES: [&str; 5] = ["busybox", "libc6", "nginx", "procps", "util-linux"];
/// What Debian's busybox lacks and specs execute.
const TOOLS: [&str; 3] = ["bin/busybox", "usr/bin/ipcs", "usr/bin/pgrep"];

/// As Go, Debian and the C library call this machine's architecture.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: [&str; 3] = ["arm64", "aarch64-linux-gnu", "lib/ld-linux-aarch64.so.1"];
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE: [&str; 3] = ["amd64", "x86_64-linux-gnu", "lib64/ld-linux-x86-64.so.2"];
const GO_ARCHITECTURE: &str = ARCHITECTURE[0];
const TRIPLET: &str = ARCHITECTURE[1];
const LINKER: &str = ARCHITECTURE[2];

type Files = Vec<(String, u32, Vec<u8>)>;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// All of them, by the names under which podbox asks its mirrors.
///
/// # Errors
/// A package cannot be had, or the set-user-ID helper not be compiled.
pub(super) fn all(folder: &Path) -> Result<Content> {
    let mut content = Content::default();
    let root = unpacked(&folder.join("packages"))?;
    let mut tools = with_libraries(&root, &TOOLS)?;
    // The static busybox' shell has its applets built in; one spec hides /bin/ls alone, and the shell must not find it then.
    for (path, ..) in tools.iter_mut().filter(|(path, ..)| path == "bin/busybox") {
        "bin/sh".clone_into(path);
    }
    tools.push(("bin/ls".to_owned(), 0o755, std::fs::read("/bin/busybox").context("read busybox")?));
    content.push(&format!("{E2E}/busybox"), "1.29-2", &TestImage { files: [busybox("").files, tools].concat(), ..busybox("busybox") })?;
    let web = with_libraries(&root, &["usr/sbin/nginx"])?;
    content.push(&format!("{E2E}/nginx"), "1.14-2", &nginx("nginx", 80, &web))?;
    let hostnet = format!("{STAGING}/hostnet-nginx-{}", GO_ARCHITECTURE);
    content.push(&hostnet, "latest", &nginx("hostnet-nginx", 12_003, &web))?;
    // Its log is looked through for its name.
    let httpd = nginx("httpd", 80, &web);
    let cmd = ["sh".to_owned(), "-c".to_owned(), format!("echo httpd; exec {}", httpd.cmd.join(" "))];
    content.push(&format!("{E2E}/httpd"), "2.4.39-4", &TestImage { cmd: cmd.to_vec(), ..httpd })?;
    content.push(&format!("{E2E}/nonewprivs"), "1.3", &no_new_privileges(folder)?)?;

    let group = "group-defined-in-image:x:50000:default-user\ndefault-user:x:1000:\n";
    let predefined = TestImage { user: "1000".to_owned(), ..busybox("predefined-group") };
    let predefined = predefined
        .file("etc/passwd", 0o644, format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n").as_bytes())
        .file("etc/group", 0o644, format!("{GROUP}{group}").as_bytes());
    content.push(&format!("{STAGING}/test-image-predefined-group"), "latest", &predefined)?;

    for (name, user) in [("uid", "1002"), ("username", "www-data"), ("uid-group", "1003:users"), ("username-group", "www-data:100")] {
        let image = TestImage { user: user.to_owned(), ..busybox(name) };
        content.push(&format!("{STAGING}/test-image-user-{name}"), "latest", &image)?;
    }
    for name in ["test-image-latest", "test-image-1", "test-image-2", "test-image-3"] {
        content.push(&format!("{STAGING}/{name}"), "latest", &marked(name))?;
    }
    for tag in ["test", "all"] {
        content.push(&format!("{STAGING}/test-image-tag"), tag, &marked(&format!("test-image-tag-{tag}")))?;
    }
    // One image of three names.
    for tag in ["1", "2", "3"] {
        content.push(&format!("{STAGING}/test-image-tags"), tag, &marked("same-image"))?;
    }
    content.push("pause", "3.9", &marked("pause"))?;
    Ok(content)
}

fn busybox(name: &str) -> TestImage {
    let image = TestImage {
        name: name.to_owned(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        cmd: vec!["sh".to_owned()],
        ..TestImage::default()
    };
    image.file("etc/passwd", 0o644, PASSWD.as_bytes()).file("etc/group", 0o644, GROUP.as_bytes())
}

/// With a file of its name, that tells it from the others.
fn marked(name: &str) -> TestImage {
    busybox(name).file(name, 0o644, name.as_bytes())
}

/// The packages' files.
fn unpacked(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).context("make the folder of packages")?;
    let (root, note) = (folder.join("root"), folder.join("unpacked"));
    let names = PACKAGES.join(" ");
    if std::fs::read_to_string(&note).is_ok_and(|noted| noted == names) {
        return Ok(root);
    }
    eprintln!("fetching Debian packages, unpacked below {}: {names}", folder.display());
    packages::unpack(&packages::fetch(folder, &PACKAGES)?, &root)?;
    std::fs::write(note, names).context("note what is unpacked")?;
    Ok(root)
}

/// Programs, and the libraries that they are linked with.
fn with_libraries(root: &Path, programs: &[&str]) -> Result<Files> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let (linker, path) = dynamic_linker(root)?;
    let mut files = vec![(linker, 0o755, read(&path)?)];
    for program in programs {
        files.push(((*program).to_owned(), 0o755, read(&below(root, program))?));
        for library in libraries(root, &path, program)? {
            let name = library.file_name().context("a library has a name")?.to_string_lossy().into_owned();
            files.push((format!("lib/{TRIPLET}/{name}"), 0o755, read(&library)?));
        }
    }
    files.sort();
    files.dedup_by(|one, other| one.0 == other.0);
    Ok(files)
}

/// Where programs have it, and where it is below the root: Debian's releases differ in that.
fn dynamic_linker(root: &Path) -> Result<(String, PathBuf)> {
    for folder in ["lib64", "usr/lib64", "lib", "usr/lib", &format!("lib/{TRIPLET}"), &format!("usr/lib/{TRIPLET}")] {
        let path = root.join(folder).join(Path::new(LINKER).file_name().unwrap_or_default());
        // Of the links that a package has, one is absolute.
        if std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Ok((LINKER.to_owned(), path));
        }
    }
    bail!("no dynamic linker below {}", root.display())
}

/// Debian's newer releases have all programs below `usr`.
fn below(root: &Path, program: &str) -> PathBuf {
    let path = root.join(program);
    if path.exists() { path } else { root.join("usr").join(program) }
}

/// As the dynamic linker finds them below the root.
fn libraries(root: &Path, linker: &Path, program: &str) -> Result<Vec<PathBuf>> {
    let folders = ["lib", "usr/lib"].map(|folder| root.join(folder).join(TRIPLET).display().to_string());
    let mut list = Command::new(linker);
    list.args(["--library-path", &folders.join(":"), "--list"]).arg(below(root, program));
    let output = list.output().with_context(|| format!("list the libraries of {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "the libraries of {program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let paths = text.lines().filter_map(|line| line.split_once("=> ")?.1.split_whitespace().next());
    Ok(paths.map(PathBuf::from).filter(|path| path.starts_with(root) && path.as_path() != linker).collect())
}

fn nginx(name: &str, port: u16, files: &[(String, u32, Vec<u8>)]) -> TestImage {
    let config = format!(
        "daemon off;\npid /var/run/nginx.pid;\nerror_log stderr;\nuser nobody nogroup;\nevents {{}}\n\
         http {{\n  access_log off;\n  server {{ listen {port}; root /usr/share/nginx/html; }}\n}}\n"
    );
    let page = ("usr/share/nginx/html/index.html".to_owned(), 0o644, b"<h1>Welcome to nginx!</h1>\n".to_vec());
    let mut image = busybox(name);
    image.files.push(page);
    image.cmd = ["nginx", "-c", "/etc/nginx/nginx.conf"].map(str::to_owned).to_vec();
    image.stop_signal = "SIGTERM".to_owned();
    image.files.extend_from_slice(files);
    image
        .file("etc/nginx/nginx.conf", 0o644, config.as_bytes())
        // Folders that it writes to are made by what is in them.
        .file("var/run/.keep", 0o644, b"")
        .file("var/lib/nginx/.keep", 0o644, b"")
        .file("var/log/nginx/.keep", 0o644, b"")
}

/// A set-user-ID program that tells as whom it runs.
fn no_new_privileges(folder: &Path) -> Result<TestImage> {
    let source = crate::build::workspace().join("tests/conformance/nonewprivs.c");
    let program = folder.join("nonewprivs");
    setup::command("cc", &["-O1", "-static", "-o", &program.to_string_lossy(), &source.to_string_lossy()], folder)?;
    let program = std::fs::read(program).context("read the helper")?;
    Ok(TestImage { cmd: vec!["/nnp".to_owned()], ..busybox("nonewprivs") }.file("nnp", 0o4755, &program))
}
