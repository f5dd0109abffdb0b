//! Files are read as overlayfs would show them, and identities come out right or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, Image, Layer};
use podbox_image::user::{ResolvedUser, UserError, UserSpec, resolve};
use podbox_image::{RootFs, RootFsError};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// An image of these layers, lowest first, as a root file system.
fn rootfs(fixture: &Fixture, layers: Vec<Layer>) -> RootFs {
    let record = fixture.import(&Image::new(layers.into_iter().map(Layer::finish).collect()), "app");
    fixture.store.remove_snapshot("probe").unwrap();
    RootFs::new(fixture.store.create_snapshot("probe", &record).unwrap().lower_dirs)
}

fn read(rootfs: &RootFs, path: &str) -> Option<String> {
    let content = rootfs.read_regular(path.as_ref(), 4096).unwrap_or_else(|error| panic!("{path}: {error}"));
    content.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn upper_layers_hide_lower_ones() {
    let fixture = Fixture::new();
    let rootfs = rootfs(
        &fixture,
        vec![
            Layer::new()
                .file("a", "low")
                .file("gone", "low")
                .file("d/low", "low")
                .file("opaque/low", "low")
                .file("file-then-dir", "low")
                .file("dir-then-file/x", "low")
                .file("removed/x", "low")
                .file("replaced/x", "low"),
            Layer::new()
                .file("a", "mid")
                .file(".wh.gone", "")
                .file("d/mid", "mid")
                .file("opaque/.wh..wh..opq", "")
                .file("opaque/mid", "mid")
                .file("file-then-dir/x", "mid")
                .file("dir-then-file", "mid")
                .file(".wh.removed", "")
                .file(".wh.replaced", "")
                .file("replaced/y", "mid"),
            Layer::new().file("d/top", "top").file("opaque/top", "top").file("removed/new", "top"),
        ],
    );
    for (path, content) in [
        ("/a", Some("mid")),
        ("a", Some("mid")),
        ("/gone", None),
        ("/d/low", Some("low")),
        ("/d/mid", Some("mid")),
        ("/d/top", Some("top")),
        ("/d/none", None),
        ("/opaque/low", None),
        ("/opaque/mid", Some("mid")),
        ("/opaque/top", Some("top")),
        ("/file-then-dir/x", Some("mid")),
        ("/dir-then-file", Some("mid")),
        ("/dir-then-file/x", None),
        ("/removed/x", None),
        ("/removed/new", Some("top")),
        ("/replaced/x", None),
        ("/replaced/y", Some("mid")),
        ("/d/../a", Some("mid")),
        ("/../../a", Some("mid")),
        ("/none/x", None),
    ] {
        assert_eq!(read(&rootfs, path).as_deref(), content, "{path}");
    }
}

#[test]
fn links_are_followed_inside_the_image_only() {
    let fixture = Fixture::new();
    let outside = fixture.directory.path().join("outside");
    std::fs::write(&outside, "the host's").unwrap();
    let up = format!("{}{}", "../".repeat(20), outside.to_str().unwrap().trim_start_matches('/'));
    let rootfs = rootfs(
        &fixture,
        vec![
            Layer::new().file("etc/real", "real").symlink("etc/up", "../etc/real").symlink("etc/deep", "sub/link"),
            Layer::new()
                .symlink("abs", "/etc/real")
                .symlink("dir", "etc")
                .symlink("etc/sub/link", "../../abs")
                .symlink("out", outside.to_str().unwrap())
                .symlink("out-up", &up)
                .symlink("magic", "/proc/self/root/etc/passwd")
                .symlink("loop", "loop"),
        ],
    );
    for path in ["/abs", "/dir/real", "/etc/up", "/dir/up", "/etc/deep", "/dir/sub/../up"] {
        assert_eq!(read(&rootfs, path).as_deref(), Some("real"), "{path}");
    }
    for path in ["/out", "/out-up", "/magic"] {
        assert_eq!(read(&rootfs, path), None, "{path}");
    }
    assert!(matches!(rootfs.read_regular("/loop".as_ref(), 10), Err(RootFsError::TooManyLinks { .. })));
}

#[test]
fn only_regular_files_of_bounded_size_are_read() {
    let fixture = Fixture::new();
    let rootfs = rootfs(&fixture, vec![Layer::new().fifo("pipe").device("zero", 1, 5).dir("d/").file("f", "12345")]);
    for path in ["/pipe", "/zero", "/d", "/", ""] {
        assert!(matches!(rootfs.read_regular(path.as_ref(), 10), Err(RootFsError::NotRegular { .. })), "{path}");
    }
    assert_eq!(rootfs.read_regular("/f".as_ref(), 5).unwrap().unwrap(), b"12345");
    assert!(matches!(rootfs.read_regular("/f".as_ref(), 4), Err(RootFsError::TooLarge { limit_bytes: 4, .. })));
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # a comment\n\
    app:x:1000:1001:An App:/home/app:/bin/sh\n\
    huge:x:4294967296:0::/:\nminus:x:-1:0::/:\nempty:x::0::/:\nnogid:x:7:x::/:\nlast:x:4294967295:0::/:\n\
    1000:x:0:0::/:\n\
    relative:x:8:8::home/relative:\ntab:x:9:9::/home/a\tb:\n";
const GROUP: &str = "root:x:0:root\nbin:x:1:root,daemon\napp:x:1001:app\nwheel:x:10:root,app\naudio:x:63:app\n\
    bad:x:4294967296:app\nworse:x::app\nbroken:x:y:\n10:x:0:\n";

fn accounts(fixture: &Fixture) -> RootFs {
    rootfs(fixture, vec![Layer::new().file("etc/passwd", PASSWD).file("etc/group", GROUP)])
}

fn image(text: &str) -> UserSpec {
    UserSpec::Image(text.to_owned())
}

fn ids(resolved: &ResolvedUser) -> (u32, u32, &[u32]) {
    (resolved.uid, resolved.gid, &resolved.supplementary_gids)
}

#[test]
fn every_form_of_user_is_resolved() {
    let fixture = Fixture::new();
    let rootfs = accounts(&fixture);
    type Ids = (u32, u32, &'static [u32]);
    let cases: &[(UserSpec, Option<i64>, Ids)] = &[
        (image(""), None, (0, 0, &[1, 10])),
        (image("root"), None, (0, 0, &[1, 10])),
        (image("0"), None, (0, 0, &[1, 10])),
        (image("app"), None, (1000, 1001, &[10, 63])),
        (image("1000"), None, (1000, 1001, &[10, 63])),
        (image("app:wheel"), None, (1000, 10, &[63, 1001])),
        (image("app:10"), None, (1000, 10, &[63, 1001])),
        (image("1000:audio"), None, (1000, 63, &[10, 1001])),
        (image("1:1"), None, (1, 1, &[])),
        (image("12345"), None, (12345, 0, &[])),
        (image("12345:6"), None, (12345, 6, &[])),
        (image(":audio"), None, (0, 63, &[0, 1, 10])),
        (image("app:"), None, (1000, 1001, &[10, 63])),
        (image("app:wheel"), Some(5), (1000, 5, &[10, 63, 1001])),
        (UserSpec::Username("app".to_owned()), None, (1000, 1001, &[10, 63])),
        (UserSpec::Username("app".to_owned()), Some(0), (1000, 0, &[10, 63, 1001])),
        (UserSpec::Uid(1000), None, (1000, 1001, &[10, 63])),
        (UserSpec::Uid(0), None, (0, 0, &[1, 10])),
        (UserSpec::Uid(77), Some(78), (77, 78, &[])),
        // Digits are a number even where an entry has them as its name; leading zeros do not make them octal.
        (UserSpec::Username("1000".to_owned()), None, (1000, 1001, &[10, 63])),
        (image("01"), None, (1, 0, &[])),
        (image("0001000"), None, (1000, 1001, &[10, 63])),
        (image("2147483648"), None, (2_147_483_648, 0, &[])),
        (image("4294967294:4294967294"), None, (4_294_967_294, 4_294_967_294, &[])),
    ];
    for (spec, group, expected) in cases {
        let resolved = resolve(spec, *group, &rootfs).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
        assert_eq!(ids(&resolved), *expected, "{spec:?} {group:?}");
    }
    let app = resolve(&image("app"), None, &rootfs).unwrap();
    assert_eq!((app.name.as_deref(), app.home.as_deref()), (Some("app"), Some("/home/app")));
    for name in ["relative", "tab"] {
        assert_eq!(resolve(&image(name), None, &rootfs).unwrap().home, None, "{name}");
    }
}

/// Seen to fail: with numbers that do not fit looked up as names, `4294967295` was a user that is not in the file.
#[test]
fn numbers_out_of_range_never_become_names_or_other_numbers() {
    let fixture = Fixture::new();
    let rootfs = accounts(&fixture);
    let out_of_range = |result: Result<ResolvedUser, UserError>| matches!(result, Err(UserError::OutOfRange { .. }));
    for text in ["4294967295", "4294967296", "18446744073709551616", "99999999999999999999999", "-1", "+1", "-0"] {
        assert!(out_of_range(resolve(&image(text), None, &rootfs)), "{text}");
        assert!(out_of_range(resolve(&image(&format!("0:{text}")), None, &rootfs)), "0:{text}");
        assert!(out_of_range(resolve(&UserSpec::Username(text.to_owned()), None, &rootfs)), "{text}");
    }
    for number in [-1, i64::MIN, 4_294_967_295, 4_294_967_296, i64::MAX] {
        assert!(out_of_range(resolve(&UserSpec::Uid(number), None, &rootfs)), "{number}");
        assert!(out_of_range(resolve(&image("app"), Some(number), &rootfs)), "{number}");
    }
    for name in ["huge", "minus", "empty", "nogid", "last"] {
        assert!(matches!(resolve(&image(name), None, &rootfs), Err(UserError::MalformedEntry { .. })), "{name}");
    }
    for name in ["bad", "worse", "broken"] {
        let spec = image(&format!("app:{name}"));
        assert!(matches!(resolve(&spec, None, &rootfs), Err(UserError::MalformedEntry { .. })), "{name}");
    }
    assert!(matches!(resolve(&image("nobody"), None, &rootfs), Err(UserError::NoUser { .. })));
    assert!(matches!(resolve(&image("app:none"), None, &rootfs), Err(UserError::NoGroup { .. })));
    assert!(matches!(resolve(&image("app:wheel:x"), None, &rootfs), Err(UserError::Form { .. })));
    for name in [" app", "app\n", "1 ", "1e3", "0x1", "-"] {
        assert!(matches!(resolve(&image(name), None, &rootfs), Err(UserError::NoUser { .. })), "{name:?}");
    }
}

#[test]
fn without_user_files_numbers_work_and_names_do_not() {
    let fixture = Fixture::new();
    let rootfs = rootfs(&fixture, vec![Layer::new().file("app", "")]);
    assert_eq!(ids(&resolve(&image("1000"), None, &rootfs).unwrap()), (1000, 0, &[][..]));
    assert_eq!(ids(&resolve(&image(""), None, &rootfs).unwrap()), (0, 0, &[][..]));
    assert!(matches!(resolve(&image("root"), None, &rootfs), Err(UserError::NoUser { .. })));
}

/// Seen to fail: with anything read that has the name, a pipe was waited for.
#[test]
fn hostile_user_files_are_errors_not_hangs() {
    let (done, ended) = std::sync::mpsc::channel();
    let checks = std::thread::spawn(move || {
        hostile_user_files_are_errors();
        done.send(()).unwrap();
    });
    if ended.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    checks.join().unwrap();
}

fn hostile_user_files_are_errors() {
    let fixture = Fixture::new();
    let fifo = rootfs(&fixture, vec![Layer::new().fifo("etc/passwd")]);
    assert!(matches!(resolve(&image("app"), None, &fifo), Err(UserError::Read(RootFsError::NotRegular { .. }))));
    let device = rootfs(&fixture, vec![Layer::new().file("etc/passwd", PASSWD).device("etc/group", 1, 5)]);
    assert!(matches!(resolve(&image("app"), None, &device), Err(UserError::Read(RootFsError::NotRegular { .. }))));
    let large = rootfs(&fixture, vec![Layer::new().file("etc/passwd", &"x".repeat((10 << 20) + 1))]);
    assert!(matches!(resolve(&image("app"), None, &large), Err(UserError::Read(RootFsError::TooLarge { .. }))));
    let host = rootfs(&fixture, vec![Layer::new().symlink("etc/passwd", "/proc/self/root/etc/passwd")]);
    assert!(matches!(resolve(&image("root"), None, &host), Err(UserError::NoUser { .. })));
    let many: String = (0..70_000).map(|gid| format!("g{gid}:x:{gid}:app\n")).collect();
    let groups = rootfs(&fixture, vec![Layer::new().file("etc/passwd", PASSWD).file("etc/group", &many)]);
    assert!(matches!(resolve(&image("app"), None, &groups), Err(UserError::TooManyGroups { .. })));
    let junk = rootfs(&fixture, vec![Layer::new().file("etc/passwd", ":::\n\0\n::0:0\napp\n:app:0:0\n").file("etc/group", "\u{0}")]);
    assert!(matches!(resolve(&image("app"), None, &junk), Err(UserError::MalformedEntry { .. })));
}
