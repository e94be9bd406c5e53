//! Names and numbers that must not be mixed up: one newtype each.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest runner name that every cloud accepts as an instance name, in bytes.
pub const RUNNER_NAME_MAX: usize = 63;
/// Length of the random part at the end of a runner name, in bytes.
pub const RUNNER_SUFFIX_LEN: usize = 8;

/// A string that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid {what} {value:?}: {expected}")]
pub struct InvalidId {
    /// What was being read, for example `group name`.
    pub what: &'static str,
    /// The value that was refused.
    pub value: String,
    /// The form that was expected.
    pub expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the form of `value`.
            ///
            /// # Errors
            /// [`InvalidId`] when it has another form.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidId> {
                let value = value.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(value) {
                    Ok(Self(value.into()))
                } else {
                    Err(InvalidId { what: $what, value: value.chars().take(80).collect(), expected: $expected })
                }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

fn plain_name(value: &str, max: usize) -> bool {
    (1..=max).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.bytes().any(|b| b.is_ascii_alphanumeric())
}

text_id!(
    /// A runner group, as the configuration names it.
    GroupName,
    "group name",
    "1 to 64 letters, digits, '-', '_' or '.'",
    |v| plain_name(v, 64)
);
text_id!(
    /// Marks everything that one deployment owns (configuration key `name`).
    ManagerName,
    "manager name",
    "1 to 64 letters, digits, '-', '_' or '.'",
    |v| plain_name(v, 64)
);
text_id!(
    /// One runner, at GitHub and at the backend alike. A new attempt has a new name.
    RunnerName,
    "runner name",
    "1 to 63 characters of a-z, 0-9 and '-'",
    |v| (1..=RUNNER_NAME_MAX).contains(&v.len())
        && v.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);
text_id!(
    /// One webhook request, from `X-GitHub-Delivery`. GitHub sends a GUID.
    DeliveryId,
    "delivery id",
    "1 to 64 letters, digits or '-'",
    |v| (1..=64).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
);
text_id!(
    /// What a backend calls the instance of a runner (a process id, a container id, …).
    InstanceId,
    "instance id",
    "1 to 256 characters without control characters",
    |v| (1..=256).contains(&v.len()) && !v.chars().any(char::is_control)
);

text_id!(
    /// One running `serve` process among those that share a store.
    ReplicaId,
    "replica id",
    "1 to 64 letters, digits, '-', '_' or '.'",
    |v| plain_name(v, 64)
);

number_id!(
    /// GitHub's id of one `workflow_job`.
    JobId(u64)
);
number_id!(
    /// GitHub's id of a registered runner.
    RunnerId(u64)
);
number_id!(
    /// GitHub's id of a runner group.
    RunnerGroupId(u64)
);
number_id!(
    /// GitHub's id of a repository.
    RepositoryId(u64)
);
number_id!(
    /// Which try at starting a runner this is; results of other tries are ignored.
    Attempt(u32)
);
number_id!(
    /// Proof of owning a group: grows with each owner, and the store refuses older ones.
    FencingToken(u64)
);
number_id!(
    /// The place of a delivery in its group's inbox. The first is 1; 0 is "before all".
    Cursor(u64)
);

impl GroupName {
    /// The start of the names of this group's runners: lower case, other characters turned into
    /// `-`, shortened so that [`RunnerName`]s stay within [`RUNNER_NAME_MAX`].
    #[must_use]
    pub fn runner_prefix(&self) -> String {
        let mut prefix: String =
            self.0.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        prefix.truncate(RUNNER_NAME_MAX - RUNNER_SUFFIX_LEN - 1);
        prefix
    }

    /// The runner name `<prefix>-<suffix>`; `suffix` is spelt in 8 digits of base 36.
    #[must_use]
    pub fn runner_name(&self, suffix: u64) -> RunnerName {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut name = self.runner_prefix();
        name.push('-');
        let mut rest = suffix;
        for _ in 0..RUNNER_SUFFIX_LEN {
            name.push(char::from(DIGITS[(rest % 36) as usize]));
            rest /= 36;
        }
        RunnerName(name.into())
    }

    /// Whether `runner` has the form of a runner name of this group.
    #[must_use]
    pub fn owns_name(&self, runner: &str) -> bool {
        runner.rsplit_once('-').is_some_and(|(prefix, suffix)| {
            suffix.len() == RUNNER_SUFFIX_LEN
                && suffix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && prefix == self.runner_prefix()
        })
    }
}

impl ReplicaId {
    /// The id `<host>-<8 hexadecimal digits>`: the host's name in lower case, other characters turned into `-`, cut so
    /// that the id stays readable.
    #[must_use]
    pub fn on_host(host: &str, number: u32) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let host: String = host.chars().map(plain).take(40).collect();
        Self(format!("{host}-{number:08x}").into())
    }

    /// Whether an id was made for this host.
    #[must_use]
    pub fn is_of_host(&self, host: &str) -> bool {
        u32::from_str_radix(self.0.rsplit('-').next().unwrap_or_default(), 16)
            .is_ok_and(|number| *self == Self::on_host(host, number))
    }
}

impl Attempt {
    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_names_fit_every_cloud_whatever_the_group_is_called() {
        for group in ["octo-linux", "Octo_Linux.X64", &"g".repeat(64)] {
            let group = GroupName::new(group).unwrap();
            for suffix in [0, 1, 36_u64.pow(8) - 1, u64::MAX] {
                let name = group.runner_name(suffix);
                assert!(RunnerName::new(name.as_str()).is_ok(), "{name}");
                assert!(group.owns_name(name.as_str()), "{name}");
            }
        }
    }

    #[test]
    fn a_group_does_not_own_names_of_a_group_with_a_longer_name() {
        let short = GroupName::new("octo").unwrap();
        let long = GroupName::new("octo-linux").unwrap();
        let name = long.runner_name(7);
        assert!(!short.owns_name(name.as_str()));
        assert!(!short.owns_name("octo-ABCDEFGH"));
        assert!(!short.owns_name("octo"));
    }

    #[test]
    fn replica_ids_are_valid_whatever_the_host_is_called() {
        for host in ["build-1", "Büro.example", "", &"h".repeat(200)] {
            let id = ReplicaId::on_host(host, 7);
            assert!(ReplicaId::new(id.as_str()).is_ok(), "{id}");
            assert!(id.is_of_host(host), "{id}");
            assert!(!id.is_of_host("other"), "{id}");
        }
    }

    #[test]
    fn ids_say_what_was_expected() {
        let error = GroupName::new("a b").unwrap_err().to_string();
        assert_eq!(error, "invalid group name \"a b\": 1 to 64 letters, digits, '-', '_' or '.'");
    }
}
