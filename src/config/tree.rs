//! YAML text becomes a tree that knows where each value was written.
//!
//! Scalars keep their text: what it means (`22.04`, `no`, `00:15:00`) is decided by the key that
//! asks for it, not by YAML's guesses.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span};

use super::error::{ConfigError, Place};
use super::show::{shorten, show_key};

/// Levels of lists and mappings that a file may nest.
const DEPTH_MAX: usize = 32;
/// Values that a file may have, each alias counted as a copy of what it refers to.
const SIZE_MAX: usize = 100_000;

/// Duplicate keys that are reported.
const DUPLICATES_MAX: usize = 100;

/// One value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) value: Value,
    /// Values in it, itself included.
    size: usize,
    /// Levels of lists and mappings in it.
    depth: usize,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing: an empty value, `~` or `null`.
    Null,
    /// Text as written; `quoted` when quotes, a block or the environment say that it is text.
    Scalar { text: String, quoted: bool },
    /// A list.
    List(Vec<Rc<Node>>),
    /// A mapping, in the order of the file, each key once.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Place,
    pub(super) node: Rc<Node>,
}

impl Node {
    /// A text that needs no reading, from the environment.
    pub(super) fn text(text: String, at: Place) -> Self {
        Self { at, value: Value::Scalar { text, quoted: true }, size: 1, depth: 0 }
    }

    /// A mapping.
    pub(super) fn map(entries: Vec<Entry>, at: Place) -> Self {
        let size = entries.iter().fold(1, |size: usize, entry| size.saturating_add(entry.node.size));
        let depth = 1 + entries.iter().map(|entry| entry.node.depth).max().unwrap_or(0);
        Self { at, value: Value::Map(entries), size, depth }
    }

    fn list(items: Vec<Rc<Node>>, at: Place) -> Self {
        let size = items.iter().fold(1, |size: usize, node| size.saturating_add(node.size));
        let depth = 1 + items.iter().map(|node| node.depth).max().unwrap_or(0);
        Self { at, value: Value::List(items), size, depth }
    }

    fn scalar(text: String, plain: bool, at: Place) -> Self {
        let null = plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        let value = if null { Value::Null } else { Value::Scalar { text, quoted: !plain } };
        Self { at, value, size: 1, depth: 0 }
    }
}

/// Where positions in a text are.
pub(super) enum Origin {
    /// The configuration file, by name.
    File(Rc<str>),
    /// Somewhere without lines.
    Fixed(Place),
}

/// Reads the one document of `text`. Duplicate keys are collected, the first one counts;
/// any other error ends the reading. An empty text gives no node.
pub(super) fn parse(text: &str, origin: Origin) -> (Option<Rc<Node>>, Vec<ConfigError>) {
    let mut builder =
        Builder { origin, frames: Vec::new(), anchors: HashMap::new(), root: None, count: 0, errors: Vec::new() };
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    for next in Parser::new_from_str_with_options(text, options) {
        let outcome = match next {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(builder.syntax(&error)),
        };
        if let Err(error) = outcome {
            builder.errors.push(error);
            return (None, builder.errors);
        }
    }
    (builder.root, builder.errors)
}

struct Builder {
    origin: Origin,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    /// Values attached so far.
    count: usize,
    errors: Vec<ConfigError>,
}

/// A list or mapping that is still open.
struct Frame {
    at: Place,
    anchor: usize,
    kind: FrameKind,
}

enum FrameKind {
    List(Vec<Rc<Node>>),
    Map { own: Entries, merged: Entries, key: Option<(String, Place, bool)> },
}

/// Entries of which each key is there once.
#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    keys: HashSet<String>,
}

impl Entries {
    /// Adds an entry unless its key is there; says whether it was added.
    fn add(&mut self, entry: Entry) -> bool {
        let new = self.keys.insert(entry.key.clone());
        if new {
            self.list.push(entry);
        }
        new
    }
}

impl Builder {
    fn place(&self, line: usize, column: usize) -> Place {
        match &self.origin {
            Origin::File(file) => Place::File { file: (&**file).into(), line, column: column + 1 },
            Origin::Fixed(place) => place.clone(),
        }
    }

    fn error(&self, place: Place, message: impl Into<String>) -> ConfigError {
        ConfigError { place, key: self.path(), message: message.into() }
    }

    fn syntax(&self, error: &ScanError) -> ConfigError {
        let place = self.place(error.marker().line(), error.marker().col());
        self.error(place, format!("invalid YAML: {}", error.info()))
    }

    /// Path of the value that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.kind {
                FrameKind::List(items) => path.push_str(&format!("[{}]", items.len())),
                FrameKind::Map { key: Some((key, _, _)), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&if key == "<<" { key.clone() } else { show_key(key) });
                }
                FrameKind::Map { .. } => {}
            }
        }
        path
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ConfigError> {
        let at = self.place(span.start.line(), span.start.col());
        if let Some(tag) = event.tag()
            && !["str", "int", "float", "bool", "null", "seq", "map"].iter().any(|t| tag.is_yaml_core_schema_tag(t))
        {
            let tag = shorten(&tag.original());
            return Err(self.error(at, format!("found the YAML tag {tag}, expected a plain value")));
        }
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(self.error(at, "found a second YAML document, expected one"))
            }
            Event::Scalar(text, style, anchor, _) => {
                self.done(Node::scalar(text.into_owned(), style == ScalarStyle::Plain, at), anchor)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.attach(Rc::clone(node), at),
                None => Err(self.error(at, "found an alias inside of what it refers to")),
            },
            Event::SequenceStart(_, anchor, _) => self.open(at, anchor, FrameKind::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.open(at, anchor, FrameKind::Map { own: Entries::default(), merged: Entries::default(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.frames.pop() {
                Some(Frame { at, anchor, kind: FrameKind::List(items) }) => self.done(Node::list(items, at), anchor),
                Some(Frame { at, anchor, kind: FrameKind::Map { mut own, merged, .. } }) => {
                    for entry in merged.list {
                        own.add(entry);
                    }
                    self.done(Node::map(own.list, at), anchor)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: Place, anchor: usize, kind: FrameKind) -> Result<(), ConfigError> {
        self.frames.push(Frame { at, anchor, kind });
        Ok(())
    }

    fn done(&mut self, node: Node, anchor: usize) -> Result<(), ConfigError> {
        let at = node.at.clone();
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.attach(node, at)
    }

    /// Puts a value where it belongs; `at` is where it is written, an alias elsewhere than its node.
    fn attach(&mut self, node: Rc<Node>, at: Place) -> Result<(), ConfigError> {
        self.count += 1;
        if node.size > SIZE_MAX || self.count > SIZE_MAX {
            return Err(
                self.error(at, format!("found more than {SIZE_MAX} values, expected fewer (aliases are copies)"))
            );
        }
        if node.depth > DEPTH_MAX {
            return Err(self.error(at, format!("found more than {DEPTH_MAX} levels, expected fewer")));
        }
        let path = self.path();
        let fail = |message: &str| ConfigError { place: at.clone(), key: path.clone(), message: message.to_owned() };
        match self.frames.last_mut().map(|frame| &mut frame.kind) {
            None => self.root = Some(node),
            Some(FrameKind::List(items)) => items.push(node),
            Some(FrameKind::Map { own, merged, key }) => match key.take() {
                None => match &node.value {
                    Value::Scalar { text, quoted } => *key = Some((text.clone(), at, *quoted)),
                    _ => return Err(fail("found a key that is not text, expected a name")),
                },
                Some((name, _, false)) if name == "<<" => merge(merged, &node).map_err(fail)?,
                Some((name, key_at, _)) => {
                    if !own.add(Entry { key: name, key_at: key_at.clone(), node }) && self.errors.len() < DUPLICATES_MAX
                    {
                        self.errors.push(ConfigError {
                            place: key_at,
                            key: path,
                            message: "found the key a second time, expected it once".to_owned(),
                        });
                    }
                }
            },
        }
        Ok(())
    }
}

/// Takes up the value of a merge key: a mapping or a list of mappings, the first of which wins.
fn merge(merged: &mut Entries, node: &Node) -> Result<(), &'static str> {
    let sources: Vec<&Node> = match &node.value {
        Value::List(items) => items.iter().map(|item| &**item).collect(),
        _ => vec![node],
    };
    for source in sources {
        let Value::Map(entries) = &source.value else {
            return Err("found a merge key (<<) of something else, expected a mapping or a list of mappings");
        };
        for entry in entries {
            merged.add(entry.clone());
        }
    }
    Ok(())
}
