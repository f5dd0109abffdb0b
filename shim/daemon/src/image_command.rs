//! `podbox image`: images for people.
//!
//! These commands work on the store itself, beside a daemon or without one.

use crate::config::Config;
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use podbox_image::{ImageRecord, ImageStore, Progress, Reference, StoreOptions};
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

/// How results are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `podbox image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an OCI archive, an OCI layout directory or a docker archive.
    Import {
        /// The archive or directory.
        file: PathBuf,
        /// Its name, instead of those it brings.
        #[arg(long, value_name = "REF")]
        name: Option<String>,
        /// How the result is shown.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// List images.
    List {
        /// How the result is shown.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove an image with all its names.
    Remove {
        /// A name or an id.
        image: String,
    },
}

/// Runs one of the commands.
pub fn run(config: &Config, command: ImageCommand) -> anyhow::Result<()> {
    let registry = config.image.default_registry.as_str();
    let options = StoreOptions { default_registry: registry.to_owned(), ..StoreOptions::default() };
    let store = ImageStore::open_with(config.root_dir.as_ref(), options).context("open the image store")?;
    match command {
        ImageCommand::Import { file, name, output } => {
            let name = name.map(|name| Reference::parse(&name, registry).with_context(|| format!("the name {name:?}"))).transpose()?;
            let colour = io::stderr().is_terminal() && output == Output::Text;
            let imported = store.import_observed(&file, name.as_ref(), &mut |progress| tell(&progress, colour));
            show(&imported.with_context(|| format!("import {}", file.display()))?, output)
        }
        ImageCommand::List { output } => show(&store.list().context("list the images")?, output),
        ImageCommand::Remove { image } => {
            let removed = store.remove(&image).with_context(|| format!("remove {image}"))?;
            let text = match removed {
                Some(record) => format!("removed {}\n", record.id),
                None => format!("{image} was not there\n"),
            };
            io::stdout().write_all(text.as_bytes()).context("write")
        }
    }
}

fn tell(progress: &Progress, colour: bool) {
    let (on, off) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let text = match progress {
        Progress::Image { id, names, layers } => format!("image {} ({layers} layers) {}", &id.hex()[..12], names.join(" ")),
        Progress::LayerPresent { diff_id } => format!("layer {} is there", &diff_id.hex()[..12]),
        Progress::LayerStarted { diff_id, stored_bytes } => {
            format!("layer {} unpacking {:.1} MB", &diff_id.hex()[..12], megabytes(*stored_bytes))
        }
        Progress::LayerUnpacked { diff_id, usage } => format!("layer {} {:.1} MB", &diff_id.hex()[..12], megabytes(usage.bytes)),
    };
    // Progress is for whoever looks; if nobody can, the work goes on.
    let _ = writeln!(io::stderr(), "{on}{text}{off}");
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn show<R: AsRef<ImageRecord>>(images: &[R], output: Output) -> anyhow::Result<()> {
    let mut text = String::new();
    match output {
        Output::Json => {
            let images: Vec<_> = images.iter().map(|image| describe(image.as_ref())).collect();
            text.push_str(&serde_json::to_string_pretty(&images).context("write JSON")?);
            text.push('\n');
        }
        Output::Text => {
            let name_of =
                |image: &ImageRecord| image.repo_tags.first().or(image.repo_digests.first()).cloned().unwrap_or_else(|| "-".to_owned());
            let names: Vec<String> = images.iter().map(|image| name_of(image.as_ref())).collect();
            let width = names.iter().map(String::len).chain(["NAME".len()]).max().unwrap_or_default();
            text.push_str(&format!("{:width$}  {:12}  {:>10}\n", "NAME", "ID", "SIZE"));
            for (image, name) in images.iter().zip(&names) {
                let image = image.as_ref();
                let size = format!("{:.1} MB", megabytes(image.size_bytes));
                text.push_str(&format!("{name:width$}  {:12}  {size:>10}\n", &image.id.hex()[..12]));
            }
        }
    }
    io::stdout().write_all(text.as_bytes()).context("write")
}

fn describe(image: &ImageRecord) -> serde_json::Value {
    json!({
        "id": image.id.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "sizeBytes": image.size_bytes,
        "layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
