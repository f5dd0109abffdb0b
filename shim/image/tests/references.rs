//! Names mean what they mean to Docker, and what is not a name is refused with the part at fault.
#![allow(clippy::unwrap_used)]

use podbox_image::reference::is_registry;
use podbox_image::{Reference, ReferenceError};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_are_normalised() {
    for (text, normal) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("localhost:5000/a/b/c:t", "localhost:5000/a/b/c:t"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("127.0.0.1:80/x", "127.0.0.1:80/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[fe80::1]/x:y", "[fe80::1]/x:y"),
        ("x:5000", "docker.io/library/x:5000"),
        ("a__b/c-d/e.f/g---h", "docker.io/a__b/c-d/e.f/g---h:latest"),
        ("app:_T.a-G", "docker.io/library/app:_T.a-G"),
    ] {
        let reference = Reference::parse(text, "docker.io").unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), normal, "{text}");
        assert_eq!(reference.repo_tag().as_deref(), Some(normal));
        assert_eq!(Reference::parse(normal, "elsewhere.test").unwrap(), reference, "a normal name stays itself");
    }
}

#[test]
fn digests_stand_beside_or_instead_of_tags() {
    let both = Reference::parse(&format!("app:1@{DIGEST}"), "docker.io").unwrap();
    assert_eq!((both.tag(), both.digest().map(|digest| digest.as_str())), (Some("1"), Some(DIGEST)));
    let alone = Reference::parse(&format!("host.test/app@{DIGEST}"), "docker.io").unwrap();
    assert_eq!((alone.tag(), alone.repo_tag()), (None, None));
    assert_eq!(alone.to_string(), format!("host.test/app@{DIGEST}"));
    assert_eq!((alone.registry(), alone.repository(), alone.name().as_str()), ("host.test", "app", "host.test/app"));
}

#[test]
fn another_default_registry_has_no_library() {
    let reference = Reference::parse("app", "registry.test:5000").unwrap();
    assert_eq!(reference.to_string(), "registry.test:5000/app:latest");
}

#[test]
fn a_default_registry_is_one_that_names_on_it_show() {
    let hub = Reference::parse("app", "index.docker.io").unwrap();
    assert_eq!(hub.to_string(), "docker.io/library/app:latest", "by its former name, too");
    for text in ["docker.io", "index.docker.io", "localhost", "registry.test:5000", "node:80", "[::1]:5000", "127.0.0.1"] {
        assert!(is_registry(text), "{text}");
        let name = Reference::parse("team/app", text).unwrap().to_string();
        assert_eq!(Reference::parse(&name, "elsewhere.test").unwrap().to_string(), name);
    }
    for text in
        ["", "registry", "a:b:c", "host:port", "host.test:99999", "-host.test", "host..test", "[::1", "host.test/path", "host.test "]
    {
        assert!(!is_registry(text), "{text}");
    }
    assert!(matches!(Reference::parse("app", "a:b:c"), Err(ReferenceError::Registry { .. })));
}

#[test]
fn what_is_not_a_name_is_refused() {
    use ReferenceError as E;
    type Check = fn(&ReferenceError) -> bool;
    let component: Check = |error| matches!(error, E::Component { .. });
    let tag: Check = |error| matches!(error, E::Tag { .. });
    let digest: Check = |error| matches!(error, E::Digest { .. });
    let registry: Check = |error| matches!(error, E::Registry { .. });
    let cases: &[(String, Check)] = &[
        (String::new(), |error| matches!(error, E::Empty)),
        ("Busybox".into(), component),
        ("a b".into(), component),
        ("a//b".into(), component),
        ("/a".into(), component),
        ("a/".into(), component),
        ("a/../b".into(), component),
        ("-a".into(), component),
        ("a-".into(), component),
        ("a..b".into(), component),
        ("a___b".into(), component),
        ("a._b".into(), component),
        ("bücher".into(), component),
        ("a\nb".into(), component),
        ("a:".into(), tag),
        ("a:-x".into(), tag),
        ("a:x y".into(), tag),
        ("a:b:c".into(), tag),
        (format!("a:{}", "t".repeat(129)), tag),
        ("a@".into(), digest),
        ("a@sha256:12".into(), digest),
        (format!("a@{}", DIGEST.to_uppercase()), digest),
        (format!("a@{DIGEST}@{DIGEST}"), digest),
        ("ho_st.x/a".into(), registry),
        ("-host.x/a".into(), registry),
        ("host:port/a".into(), registry),
        ("host:99999/a".into(), registry),
        ("[::1/a".into(), registry),
        ("[nonsense]:1/a".into(), registry),
        (DIGEST["sha256:".len()..].into(), |error| matches!(error, E::LooksLikeId { .. })),
        (format!("host.x/{}", "a".repeat(250)), |error| matches!(error, E::TooLong { .. })),
    ];
    for (text, expected) in cases {
        let error = Reference::parse(text, "docker.io").expect_err(text);
        assert!(expected(&error), "{text:?}: {error:?}");
    }
}
