//! Logs, as text or JSON, to standard error: one line per event.

use std::io::{self, IsTerminal, Write};

use thiserror::Error;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// Crates that report more than an operator wants to read.
const NOISY: [&str; 18] = [
    "aws_lc_rs",
    "bb8",
    "bollard",
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "mio",
    "octocrab",
    "poem",
    "poem_openapi",
    "ractor",
    "redis",
    "reqwest",
    "rustls",
    "tokio_util",
    "tower",
    "want",
];

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Logs were set up twice.
#[derive(Debug, Error)]
#[error("logging is set up already")]
pub struct AlreadySet;

/// Sends the events of this process to standard error from now on. Colours only on a terminal.
///
/// # Errors
/// [`AlreadySet`] when the process has a subscriber already.
pub fn init(level: Level, format: Format) -> Result<(), AlreadySet> {
    let colours = io::stderr().is_terminal();
    let layer = layer(format, colours, OneLine(io::stderr)).with_filter(targets(level));
    tracing_subscriber::registry().with(layer).try_init().map_err(|_| AlreadySet)
}

/// Our own events from `level` up; those of noisy crates one step later, and never below a warning by default.
fn targets(level: Level) -> Targets {
    let quiet = match level {
        Level::TRACE => Level::DEBUG,
        Level::DEBUG => Level::INFO,
        Level::ERROR => Level::ERROR,
        _ => Level::WARN,
    };
    Targets::new().with_default(level).with_targets(NOISY.map(|name| (name, quiet)))
}

fn layer<W>(format: Format, colours: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    match format {
        Format::Text => fmt::layer().with_ansi(colours).with_writer(writer).boxed(),
        Format::Json => fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(writer).boxed(),
    }
}

/// Writers that keep every event on one line, whatever its texts contain.
struct OneLine<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLineWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }
}

/// Gets one whole event per call, as the formatter writes it.
struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (text, end) = match event.split_last() {
            Some((b'\n', text)) => (text, &b"\n"[..]),
            _ => (event, &b""[..]),
        };
        if text.iter().all(|byte| !matches!(byte, b'\n' | b'\r')) {
            self.0.write_all(event)?;
        } else {
            let mut line = Vec::with_capacity(event.len() + 16);
            for byte in text {
                match byte {
                    b'\n' => line.extend_from_slice(b"\\n"),
                    b'\r' => line.extend_from_slice(b"\\r"),
                    other => line.push(*other),
                }
            }
            line.extend_from_slice(end);
            self.0.write_all(&line)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: Level, format: Format, log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = layer(format, false, OneLine(move || writer.clone())).with_filter(targets(level));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_event_is_one_line_without_colours() {
        let lines = logged(Level::INFO, Format::Text, || {
            tracing::warn!(error = %"a\nb\r\nc", "first\nsecond");
            tracing::info!("third");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("first\\nsecond") && lines[0].contains("a\\nb\\r\\nc"), "{lines:?}");
        assert!(!lines.concat().contains('\u{1b}'));
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_at_the_top() {
        let lines = logged(Level::INFO, Format::Json, || tracing::warn!(group = "octo", "no\nanswer"));
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&event["level"], &event["group"], &event["message"]),
            (&"WARN".into(), &"octo".into(), &"no\nanswer".into())
        );
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn noisy_crates_are_heard_only_when_they_warn() {
        let lines = logged(Level::INFO, Format::Text, || {
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::warn!(target: "hyper::proto", "trouble");
            tracing::debug!("detail");
            tracing::info!("news");
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("trouble") && lines[1].contains("news"));
    }

    #[test]
    fn the_level_error_silences_warnings() {
        let lines = logged(Level::ERROR, Format::Text, || {
            tracing::warn!("warning");
            tracing::warn!(target: "hyper", "warning");
            tracing::error!("failure");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}
