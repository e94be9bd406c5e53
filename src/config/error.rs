//! What is wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

/// Most errors that are shown at once.
const SHOWN_MAX: usize = 50;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file's name, as it was given.
        file: Arc<str>,
        /// Line, the first is 1. 0: the file as a whole.
        line: usize,
        /// Column in characters, the first is 1.
        column: usize,
    },
    /// In an environment variable.
    Variable(Arc<str>),
    /// In a file that an environment variable (`…_FILE`) names.
    VariableFile {
        /// The variable.
        variable: Arc<str>,
        /// The file it names.
        file: Arc<str>,
    },
    /// Nowhere: the value is a default.
    Default,
}

impl Place {
    /// The file as a whole.
    #[must_use]
    pub fn whole_file(file: &str) -> Self {
        Self::File { file: file.into(), line: 0, column: 0 }
    }

    fn order(&self) -> (u8, usize, usize) {
        match self {
            Self::File { line, column, .. } => (0, *line, *column),
            Self::Variable(_) | Self::VariableFile { .. } => (1, 0, 0),
            Self::Default => (2, 0, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: 0, .. } => f.write_str(file),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::VariableFile { variable, file } => write!(f, "file {file:?} (environment variable {variable})"),
            Self::Default => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong. Shown as `<place>: <key>: <message>`; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// Path of the key, like `runner_groups[1].min`; empty: the file itself.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `None` when there is nothing wrong.
    #[must_use]
    pub fn new(mut errors: Vec<ConfigError>) -> Option<Self> {
        errors.sort_by_key(|error| error.place.order());
        errors.dedup();
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(SHOWN_MAX).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
