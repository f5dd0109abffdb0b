//! Which images are for this machine, and which of several fits it best (OCI image specification, "Image Index", `platform`).
//!
//! Like Docker and containerd: names of architectures in all their spellings; the plain image before one for a later level of the
//! same architecture, so that the same name means the same image on nodes of one kind; a level that this processor lacks never;
//! what does not say its platform only where nothing does; and `unknown/unknown`, which marks attestations, never.

use serde::Deserialize;

/// The operating system images must be for, in Go's terms.
pub(super) const OS: &str = "linux";
/// The architecture images must be for, in Go's terms.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: &str = "amd64";
/// The architecture images must be for, in Go's terms.
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: &str = "arm64";

/// What a descriptor says that its image is for.
#[derive(Deserialize, Clone)]
pub(crate) struct Platform {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
}

/// How well an image fits: the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fit(u8);

impl Fit {
    /// It does not say what it is for.
    pub(crate) const UNSAID: Self = Self(u8::MAX);
}

impl Platform {
    /// How well it fits this machine; `None` if not at all.
    pub(super) fn fit(&self) -> Option<Fit> {
        let text = |text: &'_ Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
        let (os, architecture, variant) = (text(&self.os), text(&self.architecture), text(&self.variant));
        match (os.as_str(), architecture.as_str()) {
            ("", "") => Some(Fit::UNSAID),
            (os, architecture) if os == OS && normal(architecture) == ARCHITECTURE => level(&variant).map(Fit),
            _ => None,
        }
    }
}

/// Whether an image whose configuration says this is for this machine. What it leaves out, it may be for.
pub(super) fn is_for_this_machine(os: &str, architecture: &str) -> bool {
    let fits = |said: &str, ours: &str| said.is_empty() || said == ours;
    fits(&os.to_ascii_lowercase(), OS) && fits(normal(&architecture.to_ascii_lowercase()), ARCHITECTURE)
}

/// Other names that architectures go by.
fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        architecture => architecture,
    }
}

/// How far above the plain architecture a variant is, if this processor has it.
#[cfg(target_arch = "x86_64")]
fn level(variant: &str) -> Option<u8> {
    use std::arch::is_x86_feature_detected as has;
    // The levels of the x86-64 psABI, as far as a program can ask.
    let v2 = || has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = || {
        let vectors = has!("avx") && has!("avx2") && has!("fma") && has!("f16c");
        v2() && vectors && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe")
    };
    let v4 = || v3() && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match variant {
        "" | "v1" => Some(0),
        "v2" => v2().then_some(1),
        "v3" => v3().then_some(2),
        "v4" => v4().then_some(3),
        _ => None,
    }
}

/// How far above the plain architecture a variant is, if this processor has it.
#[cfg(target_arch = "aarch64")]
fn level(variant: &str) -> Option<u8> {
    matches!(variant, "" | "8" | "v8" | "v8.0").then_some(0)
}
