use std::collections::BTreeMap;

use anyhow::Result;
use itertools::Itertools;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    name: String,
    digest: String,
}

/// One entry for each name, hashed in parallel, in the order of the names.
fn entries(names: &[&str]) -> Vec<Entry> {
    names
        .par_iter()
        .map(|name| Entry {
            name: name.to_string(),
            digest: Sha256::digest(name.as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .join(""),
        })
        .collect()
}

fn main() -> Result<()> {
    let word = regex::Regex::new(r"\w+")?;
    let text = "the same words, the same digests";
    let names: Vec<&str> = word.find_iter(text).map(|m| m.as_str()).unique().collect();
    let json = serde_json::to_string(&entries(&names))?;
    let back: Vec<Entry> = serde_json::from_str(&json)?;
    let table: BTreeMap<_, _> = back.iter().map(|e| (&e.name, &e.digest[..8])).collect();
    println!("{table:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_json() {
        let all = entries(&["a", "b"]);
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Entry>>(&json).unwrap(), all);
    }
}
