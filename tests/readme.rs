//! README.md says of each thing that works here which test shows it, and docs/security.md of each threat: those tests have
//! to be there.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::fs;
use std::path::Path;

/// Pages, and where their tables are.
const PAGES: [(&str, &str); 2] = [("README.md", "## Works here, not there"), ("docs/security.md", "## Threats")];

/// What the table has wrong, a line each; `read` gives a file of the repository.
fn faults(page: &str, section: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let rows = rows(page, section);
    let mut faults: Vec<String> = rows.iter().flat_map(|row| faults_of_row(row, read)).collect();
    if rows.is_empty() {
        faults.push(format!("there is no table under {section:?}"));
    }
    faults
}

/// The rows of the table, without its head.
fn rows<'a>(page: &'a str, section: &str) -> Vec<&'a str> {
    let lines = page.lines().skip_while(|line| *line != section).skip(1);
    lines.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with('|')).skip(2).collect()
}

fn faults_of_row(row: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [what, _, tests] = cells[..] else { return vec![format!("a row of {} cells, not 3: {row}", cells.len())] };
    // What is between backticks.
    let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    if tests.is_empty() {
        return vec![format!("{what}: names no test")];
    }
    tests.iter().filter_map(|test| fault_of_test(test, read).err()).map(|fault| format!("{what}: {fault}")).collect()
}

/// A test is `tests/DIRECTORY/FILE.rs: FUNCTION`, or one of a file in `src`.
fn fault_of_test(test: &str, read: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    let (file, function) = test.split_once(": ").ok_or(format!("{test:?} is not a file, a colon and a function"))?;
    let text = read(file).ok_or(format!("there is no {file}"))?;
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let begins = |line: &&str| line.starts_with(&format!("fn {function}("));
    let at = lines.iter().position(begins).ok_or(format!("{file} has no function {function}"))?;
    let above: Vec<&&str> =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//")).collect();
    if !above.contains(&&"#[test]") {
        return Err(format!("{function} in {file} is no #[test]"));
    }
    if above.iter().any(|line| line.starts_with("#[ignore")) {
        return Err(format!("{function} in {file} is ignored"));
    }
    // A file that no other one names is not compiled: `tests/mount.rs` names its modules by their paths.
    let (target, module) = file.strip_prefix("tests/").and_then(|file| file.split_once('/')).unwrap_or((file, ""));
    match read(&format!("tests/{target}.rs")) {
        Some(root) if !root.contains(&format!("\"{target}/{module}\"")) => {
            Err(format!("{file} is no part of tests/{target}.rs"))
        }
        _ => Ok(()),
    }
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    for (page, section) in PAGES {
        let faults = faults(&read(page).unwrap(), section, &read);
        assert!(faults.is_empty(), "{page}, {section:?}:\n{}", faults.join("\n"));
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let read = |file: &str| {
        match file {
        "tests/mount.rs" => Some("#[path = \"mount/a.rs\"]\nmod a;\n".to_owned()),
        "tests/mount/a.rs" => Some(
            "#[test]\nfn one() {\n}\n\nfn two() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn three() {}\n\n/// Why.\n#[test]\nfn four() {}\n"
                .to_owned(),
        ),
        "tests/mount/b.rs" => Some("#[test]\nfn one() {}\n".to_owned()),
        _ => None,
    }
    };
    let section = PAGES[0].1;
    let found = |cell: &str| {
        let head = "| here | not there | shown by |\n| --- | --- | --- |";
        faults(
            &format!("# Title\n\n{section}\n\n{head}\n| this | that | {cell} |\n\n## Next\n\n| a |\n"),
            section,
            &read,
        )
    };
    assert_eq!(found("`tests/mount/a.rs: one`<br>`tests/mount/a.rs: four`"), [""; 0]);
    for (cell, fault) in [
        ("", "this: names no test"),
        ("`tests/mount/a.rs`", "this: \"tests/mount/a.rs\" is not a file, a colon and a function"),
        ("`tests/mount/c.rs: one`", "this: there is no tests/mount/c.rs"),
        ("`tests/mount/a.rs: on`", "this: tests/mount/a.rs has no function on"),
        ("`tests/mount/a.rs: one`<br>`tests/mount/a.rs: two`", "this: two in tests/mount/a.rs is no #[test]"),
        ("`tests/mount/a.rs: three`", "this: three in tests/mount/a.rs is ignored"),
        ("`tests/mount/b.rs: one`", "this: tests/mount/b.rs is no part of tests/mount.rs"),
    ] {
        assert_eq!(found(cell), [fault]);
    }
    assert_eq!(faults("# Title\n", section, &read), [format!("there is no table under {section:?}")]);
}
