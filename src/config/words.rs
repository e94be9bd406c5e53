//! Values that are one of a few words.

/// Declares an enum that is read from one of its words, whatever their case.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ $vis:vis enum $name:ident {
        $($(#[doc = $text:literal])+ $variant:ident = $word:literal $(| $other:literal)*,)+
    })*) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[doc = $text])+ $variant,)+
        }

        impl $name {
            /// The word for it in a configuration.
            #[allow(dead_code, reason = "enums of backends that are not available have no user yet")]
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::config::read::Read for $name {
            fn read(node: &$crate::config::tree::Node, reader: &mut $crate::config::read::Reader) -> Option<Self> {
                $crate::config::types::scalar(node, reader, Self::expected, |text| {
                    $(if [$word $(, $other)*].iter().any(|word| word.eq_ignore_ascii_case(text)) {
                        return Some(Self::$variant);
                    })+
                    None
                })
            }

            fn expected() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word $(, $other)*),+]})
            }
        }
    )*};
}
pub(super) use words;

words! {
    /// The least important messages that are logged.
    pub enum LogLevel {
        /// Everything, for finding faults.
        Debug = "DEBUG",
        /// What happens. The default.
        Info = "INFO",
        /// What should not happen and was handled.
        Warning = "WARNING" | "WARN",
        /// What failed.
        Error = "ERROR",
    }

    /// How log lines look.
    pub enum LogFormat {
        /// For people. The default.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }

    /// What an API key may do.
    pub enum Role {
        /// Read everything.
        Viewer = "viewer",
        /// Also change things.
        Admin = "admin",
    }
}
