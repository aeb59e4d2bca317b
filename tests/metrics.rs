//! `sessionfs metrics`: what a mount says, `docs/metrics.md` and the dashboard are of the same metrics, and Prometheus can
//! read it.

#![allow(clippy::unwrap_used)] // A panic is how a test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[path = "cli/support.rs"]
#[allow(dead_code)]
mod support;

use support::{Bench, fuse};

/// What a line of figures is about: the name, and the labels as they stand.
type Series = (String, String);

/// A metric: its kind, and whether it has help.
type Families = BTreeMap<String, String>;

/// Reads the text format as strictly as it is described: HELP and TYPE once before the lines of each metric, these
/// together, no line twice, every value a number.
fn parse(text: &str) -> (Families, BTreeMap<Series, f64>) {
    let (mut families, mut series) = (Families::new(), BTreeMap::new());
    let mut current = String::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').unwrap();
            assert!(!words.is_empty() && !words.contains('\\'), "{line}");
            help = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, help, "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            current = name.to_owned();
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            let suffix = name.strip_prefix(current.as_str()).unwrap();
            let histogram = families[&current] == "histogram";
            assert_eq!(["_bucket", "_sum", "_count"].contains(&suffix), histogram, "{line}");
            assert!(histogram || suffix.is_empty(), "{line}");
            for label in labels.split(',') {
                let (key, quoted) = label.split_once('=').unwrap();
                assert!(key.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                let value = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
                assert!(!value.contains(['"', '\\']), "{line}");
            }
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0, "{line}");
            assert!(series.insert((name.to_owned(), labels.to_owned()), value).is_none(), "twice: {line}");
        }
    }
    (families, series)
}

/// A mount that was used a little, its figures, and its end.
fn figures(bench: &Bench, ids: &[&str]) -> String {
    for id in ids {
        let at = bench.empty(&format!("at-{id}"));
        bench.ok(&["mount", id, at.to_str().unwrap()]);
        for n in 0..10 {
            fs::write(at.join(format!("f{n}")), [7; 5_000]).unwrap();
        }
        fs::File::open(at.join("f0")).unwrap().sync_all().unwrap();
        fs::read_dir(&at).unwrap().for_each(drop);
        fs::metadata(at.join("none")).unwrap_err();
        fs::create_dir(at.join("d")).unwrap();
        fs::remove_dir(at.join("d")).unwrap();
        bench.ok(&["sync", id]);
    }
    bench.ok(&["metrics"])
}

#[test]
fn the_text_of_two_mounts_is_what_they_did() {
    if !fuse() {
        return;
    }
    let bench = Bench::new();
    let text = figures(&bench, &["one", "two"]);
    let (families, series) = parse(&text);
    let value = |name: &str, labels: &str| series[&(name.to_owned(), labels.to_owned())];
    for id in ["one", "two"] {
        let op = |op: &str| value("sessionfs_operations_total", &format!("session=\"{id}\",op=\"{op}\""));
        assert_eq!((op("create"), op("write"), op("mkdir"), op("rmdir"), op("fsync")), (10.0, 10.0, 1.0, 1.0, 1.0));
        let session = format!("session=\"{id}\"");
        assert_eq!(value("sessionfs_written_bytes_total", &session), 50_000.0);
        assert_eq!(value("sessionfs_used_inodes", &session), 11.0);
        assert_eq!(value("sessionfs_limit_inodes", &session), 1_000_000.0);
        assert_eq!(value("sessionfs_pack_raw_bytes_total", &session), 50_000.0);
        assert!(value("sessionfs_pack_stored_bytes_total", &session) < 50_000.0);
        assert_eq!(value("sessionfs_dirty_bytes", &session), 0.0);
        assert_eq!(value("sessionfs_failed", &session), 0.0);
        assert!(value("sessionfs_journal_sync_seconds_count", &session) >= 1.0);
        assert!(value("sessionfs_commit_seconds_count", &session) >= 1.0);
        let missing = format!("session=\"{id}\",op=\"lookup\",errno=\"ENOENT\"");
        assert!(value("sessionfs_operation_errors_total", &missing) >= 1.0);
    }
    // Buckets rise, and end at what there was.
    for (name, _) in families.iter().filter(|(_, kind)| *kind == "histogram") {
        let counts = series.iter().filter(|((of, _), _)| *of == format!("{name}_count"));
        for ((_, labels), &count) in counts {
            let all = value(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""));
            assert_eq!(all, count, "{name} {labels}");
            let steps = (0..12).map(|step| (1u64 << (2 * step)) as f64 / 1e6);
            let steps: Vec<f64> =
                steps.map(|le| value(&format!("{name}_bucket"), &format!("{labels},le=\"{le}\""))).collect();
            assert!(steps.is_sorted() && steps[11] <= all, "{name} {labels}: {steps:?}");
        }
    }

    let one = parse(&bench.ok(&["metrics", "one"]));
    assert_eq!(one.0, families);
    assert!(one.1.keys().all(|(_, labels)| labels.starts_with("session=\"one\"")));
    let file = bench.path("sessionfs.prom");
    fs::write(&file, "before").unwrap();
    bench.ok(&["metrics", "--textfile", file.to_str().unwrap()]);
    assert_eq!(parse(&fs::read_to_string(&file).unwrap()).0, families);
    let beside = fs::read_dir(bench.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(beside.filter(|name| name.as_encoded_bytes().starts_with(b"sessionfs.prom")).count(), 1);
    let json: serde_json::Value = serde_json::from_str(&bench.ok(&["--json", "metrics", "two"])).unwrap();
    assert_eq!(json[0]["status"]["session"], "two");
    assert_eq!(json[0]["operations"]["create"]["times"]["steps"].as_array().unwrap().len(), 25);

    promtool(&text);
    let listing = bench.path("at-one").join("d2");
    let busy =
        bench.command(&["top", "one", "--interval", "2", "--count", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    // It has looked once when it comes to wait: whatever happens from half a second on is between its two looks.
    std::thread::sleep(std::time::Duration::from_millis(500));
    (0..20).for_each(|_| {
        fs::create_dir(&listing).unwrap();
        fs::remove_dir(&listing).unwrap();
    });
    let said = busy.wait_with_output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let row = said.lines().find(|line| line.split_whitespace().nth(1) == Some("mkdir"));
    let rate: f64 = row.unwrap().split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((2.0..=10.0).contains(&rate), "20 in two seconds, more on a busy machine: {said}");
    assert!(!said.contains('\x1b'), "{said}");
    for id in ["one", "two"] {
        bench.ok(&["umount", id]);
    }
    bench.fails(&["metrics", "one"], 20, &["not mounted", "sessionfs status one"]);
    assert!(parse(&bench.ok(&["metrics"])).1.is_empty());
}

/// Prometheus' own judgement, where it is installed.
fn promtool(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut checking = match spawned {
        Ok(checking) => checking,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: promtool (package prometheus) is not installed");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    checking.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = checking.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && words.is_empty(), "{words}");
}

#[test]
fn the_document_and_the_dashboard_name_what_there_is() {
    if !fuse() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bench = Bench::new();
    let (families, _) = parse(&figures(&bench, &["one"]));
    bench.ok(&["umount", "one"]);

    let document = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `sessionfs_"));
    let described: Families = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert!(!cells[3].is_empty(), "{row}");
            (format!("sessionfs_{}", cells[0].trim_end_matches('`')), cells[1].to_owned())
        })
        .collect();
    assert_eq!(described, families);

    let dashboard = fs::read_to_string(root.join("packaging/grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut shown = BTreeSet::new();
    for query in queries.map(|target| target["expr"].as_str().unwrap()) {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("sessionfs_")) {
            let name = word.strip_suffix("_bucket").unwrap_or(word);
            assert_eq!(families.get(name).map(|kind| kind == "histogram"), Some(name != word), "{word}: {query}");
            shown.insert(name.to_owned());
        }
    }
    assert_eq!(shown, families.into_keys().collect(), "each has its place in a panel");
}
