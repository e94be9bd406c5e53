//! The script that makes a bare machine a runner: the built-in one, or the operator's own.
//!
//! A template is a shell script with placeholders, each the whole value of an assignment on a line of its own:
//! `NAME={{RUNNER_NAME}}`. A placeholder becomes its value in single quotes, so that no character of it means anything to
//! a shell. What else stands in double braces (`{{.Names}}`) is left alone.

use thiserror::Error;

/// The built-in template.
pub const BUILT_IN: &str = include_str!("startup/runner.sh");

/// What an instance of an external provider runs to get its startup script: the template that providers built on GARM's
/// common library take as the extra spec `runner_install_template`. Its placeholders are theirs, filled in by them.
pub const LOADER: &str = include_str!("startup/loader.sh");

/// Most bytes of a template.
pub const TEMPLATE_MAX: usize = 64 << 10;

/// What templates may ask for.
const NAMES: [&str; 11] = [
    "RUNNER_NAME",
    "RUNNER_LABELS",
    "RUNNER_DOWNLOAD_URL",
    "RUNNER_JIT_CONFIG",
    "RUNNER_ORG",
    "RUNNER_GROUP",
    "RUNNER_JOB_STARTED_SCRIPT",
    "RUNNER_JOB_COMPLETED_SCRIPT",
    "RUNNER_METADATA_URL",
    "RUNNER_CALLBACK_URL",
    "RUNNER_TOKEN",
];

/// What stands for the placeholders.
pub struct Values<'a> {
    /// The runner's environment, by name. What is missing is empty.
    pub env: Vec<(&'a str, &'a str)>,
    /// The just-in-time config; empty when the script fetches it by the token.
    pub jit_config: &'a str,
    /// Base of the addresses that the instance fetches from; may be empty.
    pub metadata_url: &'a str,
    /// Base of the addresses that the instance reports to; may be empty.
    pub callback_url: &'a str,
    /// The instance's token; may be empty.
    pub token: &'a str,
}

impl Values<'_> {
    fn get(&self, name: &str) -> &str {
        match name {
            "RUNNER_JIT_CONFIG" => self.jit_config,
            "RUNNER_METADATA_URL" => self.metadata_url,
            "RUNNER_CALLBACK_URL" => self.callback_url,
            "RUNNER_TOKEN" => self.token,
            _ => self.env.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value),
        }
    }
}

/// Why there is no script.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A placeholder that stands for nothing.
    #[error("line {line}: there is no value called {name}; there are {}", NAMES.join(", "))]
    Unknown {
        /// Which line, from 1.
        line: usize,
        /// What it asks for.
        name: String,
    },
    /// A placeholder that is not the whole value of an assignment.
    #[error(
        "line {line}: {{{{{name}}}}} has to be the whole value of an assignment on a line of its own: {name}={{{{{name}}}}}"
    )]
    Misplaced {
        /// Which line, from 1.
        line: usize,
        /// What it asks for.
        name: String,
    },
    /// A first line that does not say what runs the script.
    #[error("line 1: a script begins with #! and the path of its interpreter, like #!/bin/sh")]
    NoInterpreter,
    /// A value that no script can hold.
    #[error("the value of {0} holds a NUL byte")]
    Nul(String),
}

/// The built-in script with these values.
///
/// # Errors
/// [`TemplateError::Nul`].
pub fn built_in(values: &Values<'_>) -> Result<String, TemplateError> {
    render(BUILT_IN, values)
}

/// A template with these values in it.
///
/// # Errors
/// [`TemplateError`].
pub fn render(template: &str, values: &Values<'_>) -> Result<String, TemplateError> {
    let mut script = String::with_capacity(template.len() + 4096);
    for (line, text) in (1..).zip(template.split_inclusive('\n')) {
        match placeholder(text) {
            None => script.push_str(text),
            Some((before, name, after)) => {
                let name = name.to_owned();
                if !NAMES.contains(&name.as_str()) {
                    return Err(TemplateError::Unknown { line, name });
                }
                if !is_assignment(before) || !after.trim().is_empty() {
                    return Err(TemplateError::Misplaced { line, name });
                }
                let value = values.get(&name);
                if value.contains('\0') {
                    return Err(TemplateError::Nul(name));
                }
                script.push_str(before);
                script.push_str(&quoted(value));
                script.push_str(after);
            }
        }
    }
    Ok(script)
}

/// Checks an operator's template, before any value is known.
///
/// # Errors
/// [`TemplateError`], for the first wrong line.
pub fn check(template: &str) -> Result<(), TemplateError> {
    if !template.starts_with("#!/") {
        return Err(TemplateError::NoInterpreter);
    }
    let values = Values { env: vec![], jit_config: "", metadata_url: "", callback_url: "", token: "" };
    render(template, &values).map(drop)
}

/// The first placeholder of a line, with what stands around it.
fn placeholder(line: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(start) = line[from..].find("{{").map(|at| from + at) {
        let inner = &line[start + 2..];
        let end = inner.find("}}")?;
        let name = inner[..end].trim();
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
            return Some((&line[..start], name, &inner[end + 2..]));
        }
        from = start + 2;
    }
    None
}

/// Whether a line's beginning is that of an assignment: `NAME=`, with `export` or `readonly` before it at most.
fn is_assignment(before: &str) -> bool {
    let text = before.trim_start();
    let text = text.strip_prefix("export ").or_else(|| text.strip_prefix("readonly ")).unwrap_or(text);
    text.strip_suffix('=').is_some_and(|name| {
        name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// A text as one word of a shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values<'static> {
        Values { env: vec![("RUNNER_NAME", "it's")], jit_config: "j", metadata_url: "m", callback_url: "c", token: "t" }
    }

    #[test]
    fn a_placeholder_becomes_its_value_in_quotes_and_other_braces_stay() {
        let template =
            "a={{RUNNER_NAME}}\n  export B={{ RUNNER_TOKEN }}\ndocker ps --format '{{.Names}}' {{ x }} {{}\n";
        let script = render(template, &values()).unwrap();
        assert_eq!(script, "a='it'\\''s'\n  export B='t'\ndocker ps --format '{{.Names}}' {{ x }} {{}\n");
    }

    #[test]
    fn a_value_that_is_not_given_is_empty() {
        assert_eq!(render("a={{RUNNER_LABELS}}", &values()).unwrap(), "a=''");
    }

    #[test]
    fn an_unknown_placeholder_is_refused_with_its_line() {
        let error = check("#!/bin/sh\n\nx={{RUNNER_NAEM}}\n").unwrap_err();
        assert_eq!(error, TemplateError::Unknown { line: 3, name: "RUNNER_NAEM".to_owned() });
        assert!(error.to_string().starts_with("line 3: there is no value called RUNNER_NAEM; there are RUNNER_NAME, "));
    }

    #[test]
    fn a_placeholder_anywhere_but_as_a_whole_value_is_refused_with_its_line() {
        for text in [
            "echo {{RUNNER_NAME}}",
            "a=\"{{RUNNER_NAME}}\"",
            "a={{RUNNER_NAME}}-x",
            "a=x-{{RUNNER_NAME}}",
            "a={{RUNNER_NAME}} {{RUNNER_NAME}}",
            "a={{RUNNER_NAME}} rm",
            "eval a={{RUNNER_NAME}}",
            "1a={{RUNNER_NAME}}",
            "# {{RUNNER_NAME}}",
        ] {
            let error = check(&format!("#!/bin/sh\n{text}\n")).unwrap_err();
            assert_eq!(error, TemplateError::Misplaced { line: 2, name: "RUNNER_NAME".to_owned() }, "{text}");
        }
        let error = check("#!/bin/sh\necho {{RUNNER_NAME}}").unwrap_err().to_string();
        assert!(error.ends_with("on a line of its own: RUNNER_NAME={{RUNNER_NAME}}"), "{error}");
    }

    #[test]
    fn a_template_that_nothing_would_run_is_refused() {
        for text in ["", "echo hello\n", " #!/bin/sh\n", "#! echo\n", "\u{feff}#!/bin/sh\n"] {
            assert_eq!(check(text), Err(TemplateError::NoInterpreter), "{text:?}");
        }
        assert_eq!(check("#!/usr/bin/env bash\n"), Ok(()));
    }

    #[test]
    fn a_value_with_a_nul_byte_is_refused() {
        let values = Values { token: "a\0b", ..values() };
        assert_eq!(built_in(&values), Err(TemplateError::Nul("RUNNER_TOKEN".to_owned())));
    }
}
