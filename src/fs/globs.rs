//! Which directories are ephemeral: patterns as gitignore has them, for directories alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{Glob, GlobBuilder, GlobSet};

/// Patterns of directories. `target/` is one of that name anywhere; with a slash before or within it, as in `/target/` and
/// `crates/*/target/`, it is a path from the workspace's root. `*` and `?` stop at a slash, `**` does not; `[a-z]` and
/// `{a,b}` are as in a shell. The slash at the end may be left out.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    /// By a directory's own name.
    names: GlobSet,
    /// By its path.
    paths: GlobSet,
    /// By its own name, whether its path is worth a look.
    lasts: GlobSet,
}

/// A pattern that is none; the message says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern: {why}")]
pub struct GlobError {
    pattern: String,
    why: String,
}

impl Globs {
    /// Reads patterns.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Globs, GlobError> {
        let (mut names, mut paths, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let refused = |why: &str| GlobError { pattern: pattern.to_owned(), why: why.to_owned() };
            if pattern.starts_with('!') {
                return Err(refused("an exception (!) is not possible"));
            }
            let plain = pattern.strip_suffix('/').unwrap_or(pattern);
            // `**/x` is x anywhere, and no path needs to be known for that.
            let anywhere = plain.trim_start_matches("**/");
            let path = plain.strip_prefix('/').unwrap_or(plain);
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(refused("every part between slashes has to be a name, and . and .. are none"));
            }
            let glob = |text: &str| {
                let built = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
                built.map_err(|error| refused(&error.kind().to_string()))
            };
            if !anywhere.contains('/') {
                names.push(glob(anywhere)?);
            } else {
                paths.push(glob(path)?);
                let last = path.rsplit('/').next().unwrap_or(path);
                lasts.push(glob(last)?);
            }
        }
        Ok(Globs { names: set(&names)?, paths: set(&paths)?, lasts: set(&lasts)? })
    }

    /// Whether nothing is ephemeral.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty()
    }

    /// Whether what is at this path, or a directory above it, matches. The path is without slashes around it.
    pub fn cover(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at).chain([path.len()]);
        let mut parent: &[u8] = b"";
        let mut start = 0;
        for end in ends {
            if self.matches(parent, &path[start..end]) {
                return true;
            }
            (parent, start) = (&path[..end], end + 1);
        }
        false
    }

    /// Whether a directory of this name can be ephemeral only by its path.
    pub(super) fn needs_path(&self, name: &[u8]) -> bool {
        !self.paths.is_empty() && self.lasts.is_match(OsStr::from_bytes(name))
    }

    /// Whether any pattern is a path.
    pub(super) fn has_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Whether the directory `name` is ephemeral whose parent is at `parent`: a path without slashes around it, empty for
    /// the root. Where no path is needed it may be any.
    pub(super) fn matches(&self, parent: &[u8], name: &[u8]) -> bool {
        if self.names.is_match(OsStr::from_bytes(name)) {
            return true;
        }
        if !self.needs_path(name) {
            return false;
        }
        let path = if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
        self.paths.is_match(OsStr::from_bytes(&path))
    }
}

fn set(globs: &[Glob]) -> Result<GlobSet, GlobError> {
    GlobSet::new(globs).map_err(|error| GlobError {
        pattern: error.glob().unwrap_or_default().to_owned(),
        why: error.kind().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Globs::parse(&[pattern]).unwrap().matches(parent.as_bytes(), name.as_bytes())
    }

    #[test]
    fn patterns_are_gitignores() {
        for (pattern, yes, no) in [
            ("target/", &["target", "a/target", "a/b/target"][..], &["targets", "target/x", "Target"][..]),
            ("target", &["target", "a/target"], &["atarget"]),
            ("/target/", &["target"], &["a/target"]),
            ("**/.cache/", &[".cache", "a/b/.cache"], &["cache"]),
            ("a/target/", &["a/target"], &["target", "b/a/target"]),
            ("crates/*/target/", &["crates/x/target"], &["crates/target", "crates/x/y/target"]),
            ("crates/**/target", &["crates/target", "crates/x/y/target"], &["target"]),
            ("*.egg-info/", &["x.egg-info", "a/.egg-info"], &["egg-info"]),
            ("{build,dist}/", &["build", "a/dist"], &["builds"]),
            ("/a/**", &["a/b", "a/b/c"], &["a", "b/a/c"]),
            ("cache[0-9]", &["cache7"], &["cache"]),
        ] {
            assert!(yes.iter().all(|path| matches(pattern, path)), "{pattern} has to match {yes:?}");
            assert!(no.iter().all(|path| !matches(pattern, path)), "{pattern} must not match {no:?}");
        }
        assert!(Globs::parse(&["*"]).unwrap().matches(b"", b"\xff\xfe"), "a name is any bytes");
    }

    #[test]
    fn a_pattern_covers_what_is_below() {
        for (pattern, yes, no) in [
            ("src", &["src", "src/a/b", "x/src/a"][..], &["srcs/a", "a", ""][..]),
            ("/src/*.rs", &["src/a.rs"], &["src/a.c", "a.rs", "x/src/a.rs", "src"]),
            ("*.rs", &["a.rs", "x/y/a.rs"], &["a.rsx"]),
            ("a/**/c", &["a/c/d", "a/b/c"], &["a/b", "c"]),
        ] {
            let globs = Globs::parse(&[pattern]).unwrap();
            assert!(yes.iter().all(|path| globs.cover(path.as_bytes())), "{pattern} has to cover {yes:?}");
            assert!(no.iter().all(|path| !globs.cover(path.as_bytes())), "{pattern} must not cover {no:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", "/", "//", "a//b", "../a", "a/./b", "!target/", "[", "a/{b", "{a/b,c}"] {
            let error = Globs::parse(&["ok", bad]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{bad:?}")), "{bad}: {error}");
        }
        assert!(Globs::parse::<&str>(&[]).unwrap().is_empty());
    }
}
