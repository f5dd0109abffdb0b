//! `podbox image`: images for people.
//!
//! These commands work on the store itself, beside a daemon or without one.

mod progress;

use crate::chain::Chain;
use crate::config::Config;
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use podbox_image::{AuthFile, Credentials, ImageRecord, ImageStore, Progress, PullOptions, Puller, Reference, StoreOptions};
use progress::PullView;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pull that is interrupted may take to remove what it had unpacked; what is left then goes with the next start.
const TAKING_BACK_MAX: Duration = Duration::from_secs(30);

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
    /// Pull an image from its registry.
    ///
    /// Progress is shown on standard error: bars on a terminal, lines elsewhere. Credentials are those of `--username`, or of the
    /// file of credentials.
    Pull {
        /// Its name: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.
        image: String,
        /// Who asks for it; the password is the first line of standard input.
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
        /// Credentials as docker's config.json has them [default: `image.auth_file`, or else docker's own]
        #[arg(long, value_name = "FILE")]
        authfile: Option<PathBuf>,
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
        /// How the result is shown.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
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
        ImageCommand::Pull { image, username, authfile, output } => {
            let credentials = username.map(read_password).transpose()?.unwrap_or_default();
            let mut options = config.image.pull_options();
            options.auth_file = Some(AuthFile::new(&choose_auth_file(config, authfile)?));
            show(&[pull(store, options, &image, credentials, output)?], output)
        }
        ImageCommand::List { output } => show(&store.list().context("list the images")?, output),
        ImageCommand::Remove { image, output } => {
            let removed = store.remove(&image).with_context(|| format!("remove {image}"))?;
            let text = match (output, removed) {
                (Output::Json, removed) => {
                    let removed: Vec<_> = removed.iter().map(|record| describe(record)).collect();
                    serde_json::to_string_pretty(&removed).context("write JSON")? + "\n"
                }
                (Output::Text, Some(record)) => format!("removed {}\n", record.id),
                (Output::Text, None) => format!("{image} was not there\n"),
            };
            io::stdout().write_all(text.as_bytes()).context("write")
        }
    }
}

fn pull(
    store: ImageStore,
    options: PullOptions,
    image: &str,
    credentials: Credentials,
    output: Output,
) -> anyhow::Result<Arc<ImageRecord>> {
    let bars = io::stderr().is_terminal() && output == Output::Text;
    let progress = Arc::new(PullView::new(bars));
    let observer = {
        let progress = progress.clone();
        Arc::new(move |event| progress.tell(event))
    };
    let puller = Puller::observed(Arc::new(store), options, observer);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime")?;
    let pulled = runtime.block_on(async {
        tokio::select! {
            pulled = puller.pull(image, credentials) => Some(pulled),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    progress.end();
    let Some(pulled) = pulled else {
        // What was begun is taken back before the process goes.
        let end = Instant::now() + TAKING_BACK_MAX;
        runtime.shutdown_timeout(TAKING_BACK_MAX);
        while !puller.is_at_rest() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("pull {image}: interrupted");
    };
    // The chain of a shared error is told here: it cannot be handed on.
    pulled.map_err(|error| anyhow::anyhow!("pull {image}: {}", Chain(&*error)))
}

/// The one given, which has to be there; else the daemon's, if it is there; else docker's.
fn choose_auth_file(config: &Config, given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        std::fs::metadata(&given).with_context(|| format!("the credentials in {}", given.display()))?;
        return Ok(given);
    }
    let own = config.image.auth_file.as_ref().to_owned();
    let docker = || {
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
        folder.map(|folder| folder.join("config.json")).filter(|path| path.exists())
    };
    Ok(if own.exists() { own } else { docker().unwrap_or(own) })
}

/// A line of standard input; on a terminal it is asked for and not shown.
fn read_password(username: String) -> anyhow::Result<Credentials> {
    let mut password = String::new();
    let silenced = io::stdin().is_terminal().then(|| SilentTerminal::new(&username)).transpose().context("ask for the password")?;
    io::stdin().lock().read_line(&mut password).context("read the password from standard input")?;
    drop(silenced);
    Ok(Credentials::Password { username, password: password.trim_end_matches(['\r', '\n']).to_owned() })
}

/// A terminal that does not show what is typed, for as long as this lives.
struct SilentTerminal {
    before: Termios,
}

impl SilentTerminal {
    fn new(username: &str) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        write!(io::stderr(), "password of {username}: ")?;
        Ok(Self { before })
    }
}

impl Drop for SilentTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        let _ = writeln!(io::stderr());
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
