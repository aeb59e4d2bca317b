//! The arrows between the floors, and where each outside crate may be used: architecture that a test can hold.

#![allow(clippy::unwrap_used)] // A test that cannot read the sources has failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each floor and what it may import.
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("format", &["base"]),
    ("store", &["base", "format"]),
    ("fs", &["base", "format", "store"]),
    ("session", &["base", "format", "store", "fs"]),
    ("fuse", &["base", "format", "store", "fs", "session"]),
    ("control", &["base", "format", "store", "fs", "session"]),
    ("cli", &["base", "format", "store", "fs", "session", "fuse", "control"]),
];

/// Outside crates that have one home.
const HOMES: &[(&str, &str)] = &[
    ("fuser", "fuse"),
    ("rusqlite", "store"),
    ("libsqlite3_sys", "store"),
    ("zstd", "format"),
    ("xxhash_rust", "format"),
    ("globset", "fs"),
    ("tar", "session"),
    ("jiff", "session"),
    ("base64", "cli"),
    ("clap", "cli"),
    ("clap_complete", "cli"),
    ("toml", "cli"),
    ("strsim", "cli"),
    ("clap_mangen", "cli"),
    ("indicatif", "cli"),
    ("env_logger", "cli"),
];

/// Every source file below `src/`, with its floor.
fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(at: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let floor = |path: &Path| match path.strip_prefix(&root).unwrap().components().next() {
        Some(first) => first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned(),
        None => unreachable!("a file is below the root"),
    };
    found
        .into_iter()
        .map(|path| (floor(&path), code(&std::fs::read_to_string(&path).unwrap()), path))
        .map(|(f, c, p)| (f, p, c))
        .collect()
}

/// The code without comments and the content of strings, so that words about a module are no use of it.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut quoted = false;
        let mut before = ' ';
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            if c == '/' && characters.peek() == Some(&'/') && !quoted {
                break;
            }
            if c == '"' && before != '\\' && before != '\'' {
                quoted = !quoted;
            }
            if !quoted {
                out.push(c);
            }
            before = c;
        }
        out.push('\n');
    }
    out
}

/// The modules named right behind `crate::`, also in `crate::{a, b::{c}}`.
fn imports(code: &str) -> Vec<String> {
    let flat: String = code.split_whitespace().collect();
    let mut found = Vec::new();
    for (at, _) in flat.match_indices("crate::") {
        // `$crate::` and `some_crate::` are no roots of ours, the first being the same thing.
        if flat[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
            && !flat[..at].ends_with("use")
            && !flat[..at].ends_with("in")
        {
            continue;
        }
        let rest = &flat[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(list) => {
                let (mut depth, mut start) = (0, true);
                for (i, c) in list.char_indices() {
                    if start && depth == 0 {
                        found.push(word(&list[i..]));
                    }
                    start = false;
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ => {}
                    }
                }
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()
}

#[test]
fn a_module_imports_only_from_below() {
    let allowed: BTreeMap<&str, &[&str]> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (floor, path, code) in sources() {
        if floor == "lib" || floor == "main" {
            continue;
        }
        let Some(below) = allowed.get(floor.as_str()) else {
            wrong.push(format!("{}: {floor} is no floor; add it to docs/architecture.md and here", path.display()));
            continue;
        };
        for import in imports(&code).into_iter().filter(|import| allowed.contains_key(import.as_str())) {
            seen += 1;
            if import != floor && !below.contains(&import.as_str()) {
                wrong.push(format!("{}: {floor} must not import {import}", path.display()));
            }
        }
    }
    assert!(seen > 50, "the scan finds imports at all: {seen}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn an_outside_crate_stays_at_home() {
    let mut wrong = Vec::new();
    for (floor, path, code) in sources() {
        for (name, home) in HOMES {
            let path_use = format!("{name}::");
            let used = code
                .match_indices(&path_use)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            let imported = code.contains(&format!("use {name};"));
            if (used || imported) && floor != *home {
                wrong.push(format!("{}: {name} is only for {home}/", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_scan_itself_sees_what_it_should() {
    let text =
        "use crate::{base::{Ino, Name}, fs};\nlet x = crate::store::open(); // crate::cli\nlet s = \"crate::fuse\";\n";
    assert_eq!(imports(&code(text)), ["base", "fs", "store"]);
    let files = sources();
    assert!(files.iter().any(|(floor, _, _)| floor == "session"));
    for (floor, path, _) in &files {
        let lines = std::fs::read_to_string(path).unwrap().lines().count();
        assert!(lines <= 600, "{} of {floor} has {lines} lines: at the most 600", path.display());
    }
}
