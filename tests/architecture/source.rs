//! Reads the names that a Rust source uses, without its comments, texts and test modules.

use std::fmt;

/// A path as the source writes it, `super` and `self` resolved: `crate::model::job`, `std::env::var`, `println!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    parts: Vec<String>,
    imported: bool,
}

impl Name {
    /// The first part.
    pub fn first(&self) -> &str {
        &self.parts[0]
    }

    /// The part at `place`, or nothing.
    pub fn get(&self, place: usize) -> &str {
        self.parts.get(place).map_or("", String::as_str)
    }

    /// Whether it names something of the crate `name`, and not just a variable that is called so.
    pub fn is_of(&self, name: &str) -> bool {
        self.first() == name && (self.imported || self.parts.len() > 1)
    }

    /// Whether `parts` occur in it, one after the other.
    pub fn contains(&self, parts: &[&str]) -> bool {
        self.parts.windows(parts.len()).any(|window| window == parts)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("::"))
    }
}

/// Every name in `code`, which is the source of the module `module` (from the root of its crate).
pub fn names(module: &[&str], code: &str) -> Vec<Name> {
    let tokens = tokens(code);
    let mut reader =
        Reader { tokens: &tokens, module: module.iter().map(ToString::to_string).collect(), names: Vec::new() };
    reader.read();
    reader.names
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    Other(char),
}

struct Reader<'a> {
    tokens: &'a [Token],
    module: Vec<String>,
    names: Vec<Name>,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut at = 0;
        let mut depth = 0_usize;
        // Modules written within this file: their names end where their braces do.
        let mut inner: Vec<usize> = Vec::new();
        while let Some(token) = self.tokens.get(at) {
            match token {
                Token::Other('{') => depth += 1,
                Token::Other('}') => {
                    depth = depth.saturating_sub(1);
                    if inner.last() == Some(&depth) {
                        inner.pop();
                        self.module.pop();
                    }
                }
                Token::Other('#') if self.is_test_module(at) => {
                    at = self.after_braces(at);
                    continue;
                }
                Token::Word(word) if word == "use" => {
                    at = self.tree(at + 1, &[], true);
                    continue;
                }
                Token::Word(word) if word == "mod" => {
                    if let (Some(Token::Word(name)), Some(Token::Other('{'))) =
                        (self.tokens.get(at + 1), self.tokens.get(at + 2))
                    {
                        inner.push(depth);
                        self.module.push(name.clone());
                        depth += 1;
                        at += 3;
                        continue;
                    }
                }
                Token::Word(_) => {
                    at = self.tree(at, &[], false);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Whether `#[cfg(test)] mod name {` begins here.
    fn is_test_module(&self, at: usize) -> bool {
        let rest = self.tokens[at..].iter().take(10);
        let text: Vec<_> = rest
            .map(|token| match token {
                Token::Word(word) => word.as_str(),
                Token::Other('#') => "#",
                Token::Other('[') => "[",
                Token::Other('(') => "(",
                Token::Other(')') => ")",
                Token::Other(']') => "]",
                Token::Other('{') => "{",
                _ => "?",
            })
            .collect();
        matches!(text.as_slice(), ["#", "[", "cfg", "(", "test", ")", "]", "mod", _, "{"])
    }

    /// Behind the braces that open next.
    fn after_braces(&self, mut at: usize) -> usize {
        let mut depth = 0;
        while let Some(token) = self.tokens.get(at) {
            at += 1;
            match token {
                Token::Other('{') => depth += 1,
                Token::Other('}') if depth == 1 => return at,
                Token::Other('}') => depth -= 1,
                _ => {}
            }
        }
        at
    }

    /// Reads `a::b`, and in imports `a::{b, c::{d}}`, noting one name per leaf; returns the place behind it.
    fn tree(&mut self, mut at: usize, prefix: &[String], imported: bool) -> usize {
        let mut parts = prefix.to_vec();
        loop {
            match self.tokens.get(at) {
                Some(Token::Path) => at += 1,
                Some(Token::Word(word)) => {
                    let mut word = word.clone();
                    at += 1;
                    let next = self.tokens.get(at);
                    if next == Some(&Token::Other('!')) && self.tokens.get(at + 1) != Some(&Token::Other('=')) {
                        word.push('!');
                    }
                    parts.push(word);
                    if next != Some(&Token::Path) {
                        break;
                    }
                }
                Some(Token::Other('{')) if imported => {
                    at += 1;
                    while let Some(token) = self.tokens.get(at) {
                        match token {
                            Token::Other('}') => return at + 1,
                            Token::Word(_) | Token::Path | Token::Other('{') => at = self.tree(at, &parts, true),
                            Token::Other(_) => at += 1,
                        }
                    }
                    return at;
                }
                // `a::*`, `a::<T>`, `a::;` and whatever else ends a path.
                _ => break,
            }
        }
        self.note(parts, imported);
        if imported && self.tokens.get(at) == Some(&Token::Word("as".to_owned())) { at + 2 } else { at }
    }

    fn note(&mut self, mut parts: Vec<String>, imported: bool) {
        let mut base = self.module.clone();
        let relative = parts.iter().take_while(|part| matches!(part.as_str(), "self" | "super")).count();
        // `use a::{self}` is `a`.
        if parts.len() > 1 && parts.last().is_some_and(|part| part == "self") {
            parts.pop();
        }
        if relative > 0 && (imported || parts.len() > relative) {
            for part in parts.drain(..relative.min(parts.len())) {
                if part == "super" {
                    base.pop();
                }
            }
            base.insert(0, "crate".to_owned());
            base.extend(parts);
            parts = base;
        }
        if !parts.is_empty() {
            self.names.push(Name { parts, imported });
        }
    }
}

/// Words, `::` and signs; comments, texts, characters, numbers and lifetimes are left out.
fn tokens(code: &str) -> Vec<Token> {
    let chars: Vec<char> = code.chars().collect();
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if c == '/' && get(at + 1) == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '/' && get(at + 1) == '*' {
            let mut depth = 0;
            loop {
                match (get(at), get(at + 1)) {
                    ('/', '*') => (depth, at) = (depth + 1, at + 2),
                    ('*', '/') => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if let Some(end) = raw_text_end(&chars, at) {
            at = end;
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            if get(at + 1) == '\\' {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            } else if get(at + 2) == '\'' {
                at += 3;
            } else {
                at += 1;
                while is_word(get(at)) {
                    at += 1;
                }
            }
        } else if is_word(c) {
            let start = at;
            while is_word(get(at)) {
                at += 1;
            }
            if c == 'r' && at == start + 1 && get(at) == '#' {
                // A raw identifier is the word behind `r#`.
                at += 1;
            } else if !c.is_ascii_digit() {
                tokens.push(Token::Word(chars[start..at].iter().collect()));
            }
        } else if c == ':' && get(at + 1) == ':' {
            tokens.push(Token::Path);
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Other(c));
            }
            at += 1;
        }
    }
    tokens
}

/// Behind the raw text (`r"…"`, `br#"…"#`) that begins at `at`, if one does.
fn raw_text_end(chars: &[char], at: usize) -> Option<usize> {
    let mut here = at;
    while matches!(chars.get(here), Some('b' | 'c')) {
        here += 1;
    }
    if chars.get(here) != Some(&'r') || (at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')) {
        return None;
    }
    here += 1;
    let hashes = chars[here..].iter().take_while(|c| **c == '#').count();
    here += hashes;
    if chars.get(here) != Some(&'"') {
        return None;
    }
    here += 1;
    while here < chars.len() {
        let closes = chars[here] == '"' && chars[here + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
        here += 1;
        if closes {
            return Some(here + hashes);
        }
    }
    Some(here)
}
