//! The house keeps its rules: who may import whom, what the pure core may touch, and how long a file may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "architecture/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Name, names};

/// Most lines of a file.
const LINES_MAX: usize = 600;

/// What each room of the `actors` crate may import of its own crate.
const BRAIN: &[(&str, &[&str])] = &[
    ("id", &["id"]),
    ("model", &["id", "model"]),
    ("machine", &["id", "model", "machine"]),
    ("port", &["id", "model", "machine", "port"]),
    ("actor", &["id", "model", "machine", "port", "actor"]),
];

/// What the rooms may use outside the standard library and their own crate. `actor` may use all that the crate has.
const BRAIN_CRATES: &[(&str, &[&str])] = &[
    ("id", &["serde", "thiserror"]),
    ("model", &["jiff", "secrecy", "serde", "serde_json", "thiserror"]),
    ("machine", &["jiff", "serde", "serde_json", "thiserror"]),
    ("port", &["async_trait", "jiff", "serde", "serde_json", "thiserror"]),
];

/// Everything that the `actors` crate may depend on: no HTTP, no SDK, no database.
const BRAIN_DEPENDENCIES: &[&str] = &[
    "async-trait",
    "futures-util",
    "jiff",
    "ractor",
    "secrecy",
    "serde",
    "serde_json",
    "thiserror",
    "tokio",
    "tokio-util",
    "tracing",
];

/// What each room of `src` may import of `src`, beside itself, and of the `actors` crate. `*` is everything.
const WORLD: &[(&str, &[&str], &[&str])] = &[
    ("app", &["*"], &["*"]),
    ("demo", &["*"], &["*"]),
    ("lib", &["*"], &[]),
    ("main", &["cli", "commands", "memory"], &[]),
    ("memory", &[], &[]),
    ("cli", &[], &[]),
    ("clock", &[], &["port"]),
    ("commands", &["app", "check", "cli", "config", "demo", "telemetry"], &[]),
    ("check", &["config"], &["id", "model", "port"]),
    ("config", &["startup"], &["id", "model", "port"]),
    ("backend", &["startup"], &["id", "model", "port"]),
    ("boot", &["startup"], &["id", "model", "port"]),
    ("github", &[], &["id", "model", "port"]),
    ("http", &[], &["id", "model", "port", "actor"]),
    ("metrics", &[], &["id", "model", "port"]),
    ("startup", &[], &[]),
    ("store", &[], &["id", "model", "port"]),
    ("telemetry", &[], &["id", "model", "port"]),
];

/// Crates that only some rooms may name, so that they can be exchanged there.
const WALLED: &[(&str, &[&str])] = &[
    ("bollard", &["backend"]),
    ("poem", &["http", "demo"]),
    ("poem_openapi", &["http", "demo"]),
    ("octocrab", &["github"]),
    ("jsonwebtoken", &["github"]),
    ("rusqlite", &["store"]),
    ("redis", &["store"]),
    ("bb8_redis", &["store"]),
    ("prometheus", &["metrics"]),
];

/// What the pure core must not name: clocks, chance, environment, input, output and state beside its arguments.
const IMPURE: &[&[&str]] = &[
    &["SystemTime"],
    &["Instant", "now"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
    &["TimeZone", "system"],
    &["RandomState"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["Mutex"],
    &["RwLock"],
    &["OnceLock"],
    &["LazyLock"],
    &["atomic"],
    &["thread_local!"],
    &["unsafe"],
    &["println!"],
    &["eprintln!"],
    &["print!"],
    &["eprint!"],
    &["dbg!"],
];

/// What is wrong with a file of the `actors` crate; `module` is its place from the crate's root.
fn faults_of_brain(module: &[&str], code: &str) -> Vec<String> {
    let room = module[0];
    if room == "lib" || module.ends_with(&["tests"]) {
        return Vec::new();
    }
    let Some((_, rooms)) = BRAIN.iter().find(|(name, _)| *name == room) else {
        return vec![format!("is in no table of this test: say there what {room:?} may import")];
    };
    let crates = BRAIN_CRATES.iter().find(|(name, _)| *name == room);
    let mut faults = Vec::new();
    for name in names(module, code) {
        if name.is_of("crate") {
            faults.extend(refuse(&name, rooms.contains(&name.get(1))));
        }
        for dependency in BRAIN_DEPENDENCIES.iter().map(|dependency| dependency.replace('-', "_")) {
            let allowed = crates.is_none_or(|(_, crates)| crates.contains(&dependency.as_str()));
            faults.extend(refuse(&name, allowed || !name.is_of(&dependency)));
        }
        if room == "machine" {
            let impure = name.is_of("rand") || IMPURE.iter().any(|parts| name.contains(parts));
            faults.extend(refuse(&name, !impure));
        }
    }
    faults
}

/// What is wrong with a file of `src`; `module` is its place from the crate's root.
fn faults_of_world(module: &[&str], code: &str) -> Vec<String> {
    let room = module[0];
    if module.ends_with(&["tests"]) {
        return Vec::new();
    }
    let Some((_, rooms, brain)) = WORLD.iter().find(|(name, ..)| *name == room) else {
        return vec![format!("is in no table of this test: say there what {room:?} may import")];
    };
    let mut faults = Vec::new();
    for name in names(module, code) {
        // The binary sees the library under its name.
        if name.is_of("crate") || name.is_of("runner_manager") {
            let target = name.get(1);
            faults.extend(refuse(&name, target == room || rooms.contains(&"*") || rooms.contains(&target)));
        }
        if name.is_of("actors") {
            faults.extend(refuse(&name, brain.contains(&"*") || brain.contains(&name.get(1))));
        }
        let wall = WALLED.iter().find(|(walled, _)| name.is_of(walled));
        faults.extend(refuse(&name, wall.is_none_or(|(_, rooms)| rooms.contains(&room))));
    }
    faults
}

fn refuse(name: &Name, allowed: bool) -> Option<String> {
    (!allowed).then(|| format!("must not name {name}"))
}

/// What is wrong with the shape of any file.
fn faults_of_shape(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("has {lines} lines, {LINES_MAX} are the most: split it"));
    }
    if !text.starts_with("//! ") {
        faults.push("does not begin with a line (//! …) that says what it is for".to_owned());
    }
    faults
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`.
fn sources(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Applies `faults` to every file below `dir`: what it is given is the file's place as a module, and its text.
fn check(dir: &str, faults: fn(&[&str], &str) -> Vec<String>) {
    let sources = sources(dir);
    assert!(!sources.is_empty(), "no source is found in {dir}");
    let mut all = Vec::new();
    for path in sources {
        let inside = path.strip_prefix(root().join(dir)).unwrap().with_extension("");
        let module: Vec<_> = inside.components().map(|part| part.as_os_str().to_str().unwrap()).collect();
        let text = fs::read_to_string(&path).unwrap();
        let place = path.strip_prefix(root()).unwrap().display();
        all.extend(faults(&module, &text).into_iter().map(|fault| format!("{place} {fault}")));
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

#[test]
fn the_rooms_of_the_brain_import_only_what_is_below_them_and_the_machine_is_pure() {
    check("actors/src", faults_of_brain);
}

#[test]
fn adapters_import_the_words_and_ports_of_the_brain_and_never_each_other() {
    check("src", faults_of_world);
}

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    for dir in ["src", "actors/src", "tests", "benches", "actors/tests", "actors/benches"] {
        if root().join(dir).exists() {
            check(dir, |_, text| faults_of_shape(text));
        }
    }
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('[')).map(str::trim);
    let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries.map(|line| line.split(['.', ' ', '=']).next().unwrap().trim_matches('"')).collect()
}

#[test]
fn the_brain_depends_on_no_http_no_sdk_and_no_database() {
    let manifest = fs::read_to_string(root().join("actors/Cargo.toml")).unwrap();
    let dependencies = dependencies(&manifest);
    assert!(dependencies.contains(&"ractor"), "{dependencies:?}");
    let foreign: Vec<_> = dependencies.iter().filter(|name| !BRAIN_DEPENDENCIES.contains(name)).collect();
    assert!(foreign.is_empty(), "actors/Cargo.toml depends on {foreign:?}");
    // A dependency for one platform or a renamed table would escape the list above.
    assert_eq!(manifest.matches("dependencies").count(), 2, "more than [dependencies] and [dev-dependencies]");
}

#[test]
fn the_scan_sees_a_room_that_reaches_upwards() {
    for (room, code) in [
        ("id", "use crate::model::job::Job;"),
        ("model", "use crate::{id::JobId, port};"),
        ("model", "fn f(x: crate::machine::State) {}"),
        ("machine", "use crate::port::Backend;"),
        ("port", "use crate::actor::front::Front;"),
        ("machine", "use {crate::actor, std::fmt};"),
        ("model", "use super::super::port::Store;"),
        ("model", "mod inner { use super::super::super::port::Store; }"),
        ("model", "fn f(_: tokio::sync::Mutex<u8>) {}"),
        ("model", "use tokio::sync::Mutex;"),
        ("port", "use ractor::Actor;"),
        ("attic", "use std::fmt;"),
    ] {
        assert_ne!(faults_of_brain(&[room, "part"], code), Vec::<String>::new(), "{room}: {code}");
    }
    assert_eq!(faults_of_brain(&["actor"], "use crate::{id, model, machine, port, actor};"), Vec::<String>::new());
    assert_eq!(faults_of_brain(&["port"], "use crate::id::JobId; use jiff::Timestamp;"), Vec::<String>::new());
}

#[test]
fn the_scan_sees_an_impure_machine() {
    for code in [
        "fn f() -> Timestamp { Timestamp::now() }",
        "fn f() { let _ = jiff::Zoned::now(); }",
        "use std::time::{Duration, SystemTime};",
        "fn f() { std::time::Instant::now(); }",
        "fn f() -> u64 { rand::random() }",
        "use std::{env, fmt};",
        "use std::{collections::{self}, fs::File};",
        "use std::net::TcpStream;",
        "fn f() { std::process::exit(1) }",
        "use tokio::time::sleep;",
        "fn f() { println!(\"{}\", 1); }",
        "fn f() { tracing::info!(\"x\"); }",
        "use std::sync::atomic::AtomicU64;",
        "use std::hash::RandomState as Luck;",
        "fn f() { std :: env :: var(\"HOME\"); }",
    ] {
        assert_ne!(faults_of_brain(&["machine", "part"], code), Vec::<String>::new(), "{code}");
    }
    for code in [
        "// Timestamp::now() is the caller's\nfn f(now: Timestamp) -> Timestamp { now }",
        "/* rand::random() /* nested */ std::env */ fn f() {}",
        "const TEXT: &str = \"std::env \\\" println!\"; const RAW: &str = r#\"std::fs \" tokio\"#;",
        "fn f(x: &'static str, c: char) -> bool { c == '\"' && x == \"\" }",
        "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { println!(\"}\"); }\n}\n",
        "use std::{collections::BTreeMap, sync::Arc}; fn f(rand: u8, now: Timestamp) -> u8 { rand }",
    ] {
        assert_eq!(faults_of_brain(&["machine", "part"], code), Vec::<String>::new(), "{code}");
    }
    let after_tests = "#[cfg(test)]\nmod tests { }\nfn f() { std::env::var(\"X\"); }";
    assert_ne!(faults_of_brain(&["machine", "part"], after_tests), Vec::<String>::new());
}

#[test]
fn the_scan_sees_adapters_that_reach_sideways() {
    for (room, code) in [
        ("backend", "use crate::store::Redis;"),
        ("app", "use bollard::Docker;"),
        ("backend", "use super::github;"),
        ("store", "use actors::actor::front::Front;"),
        ("store", "use actors::{id, machine::step};"),
        ("http", "use crate::github::Client;"),
        ("config", "fn f() -> crate::backend::process::Settings {}"),
        ("cli", "use crate::{config::Config, store};"),
        ("check", "use crate::github::Client;"),
        ("metrics", "use crate::http;"),
        ("github", "use poem::Route;"),
        ("app", "use poem::Route;"),
        ("http", "use octocrab::models;"),
        ("main", "use runner_manager::store::Redis;"),
        ("attic", ""),
    ] {
        assert_ne!(faults_of_world(&[room], code), Vec::<String>::new(), "{room}: {code}");
    }
    for (room, code) in [
        ("http", "use actors::{actor::front, id, model, port}; use crate::http::problem; use poem::Route;"),
        ("app", "use crate::{backend, github, http, store}; use actors::machine;"),
        ("demo", "use crate::{app, store}; use poem::Route;"),
        ("backend", "use actors::port::Backend; use super::check_owner; mod inner { use super::super::check_owner; }"),
    ] {
        assert_eq!(faults_of_world(&[room, "part"], code), Vec::<String>::new(), "{room}: {code}");
    }
}

#[test]
fn the_scan_sees_long_and_nameless_files() {
    let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
    assert_eq!(faults_of_shape(&long).len(), 1);
    assert_eq!(faults_of_shape("use std::fmt;\n").len(), 1);
    assert_eq!(faults_of_shape("//! Short.\n"), Vec::<String>::new());
}
