//! Invariants that a query can state: it returns a line of text for each place where the invariant does not hold.

use rusqlite::Connection;

use super::Report;
use crate::store::StoreError;

/// Invariants, and the query that finds where they are broken. It has a column for each of them, NULL in a line where
/// that one holds: what needs the same walk through the tables is asked in one.
pub(super) struct Rule {
    codes: &'static [&'static str],
    query: &'static str,
}

impl Rule {
    /// Reports every line the query gives.
    pub fn run(&self, sql: &Connection, report: &mut Report) -> Result<(), StoreError> {
        let mut query = sql.prepare(self.query)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            for (at, code) in self.codes.iter().enumerate() {
                match row.get_ref(at)?.as_bytes_or_null() {
                    Ok(Some(text)) => report.add(code, String::from_utf8_lossy(text)),
                    Ok(None) => {}
                    Err(_) => report.add(code, "?"),
                }
            }
        }
        Ok(())
    }
}

/// The rules, in no order that matters. A type is `mode & 61440` (`S_IFMT`): 16384 a directory, 32768 a regular file,
/// 40960 a symbolic link. The constants of sizes are those of `limits`, which a test holds.
pub(super) const RULES: &[Rule] = &[
    Rule {
        codes: &["root"],
        query: "SELECT 'inode 1: no directory'
            WHERE NOT EXISTS (SELECT 1 FROM inode WHERE ino = 1 AND mode & 61440 = 16384 AND nlink > 0)",
    },
    Rule {
        codes: &["dentry-parent"],
        query: "SELECT 'dentry ' || d.parent || '/\"' || CAST(d.name AS TEXT) || '\": its parent is no directory'
            FROM dentry d LEFT JOIN inode p ON p.ino = d.parent
            WHERE p.ino IS NULL OR p.mode & 61440 <> 16384 OR p.nlink = 0",
    },
    Rule {
        codes: &["dentry-inode", "dentry-kind", "dentry-orphan"],
        query: "SELECT iif(mode IS NULL, name || 'leads to inode ' || ino || ', which is missing', NULL),
                iif(kind <> mode >> 12, name || 'says kind ' || kind || ', inode ' || ino || ' is ' || (mode >> 12),
                    NULL),
                iif(nlink = 0, name || 'leads to orphan ' || ino, NULL)
            FROM (SELECT 'dentry ' || d.parent || '/\"' || CAST(d.name AS TEXT) || '\": ' AS name, d.ino AS ino,
                    d.kind AS kind, i.mode AS mode, i.nlink AS nlink
                FROM dentry d LEFT JOIN inode i ON i.ino = d.ino
                WHERE i.ino IS NULL OR d.kind <> i.mode >> 12 OR i.nlink = 0)",
    },
    Rule {
        codes: &["dentry-root"],
        query: "SELECT 'dentry ' || parent || '/\"' || CAST(name AS TEXT) || '\": leads to the root'
            FROM dentry WHERE ino = 1",
    },
    Rule {
        codes: &["dentry-cookie"],
        query: "SELECT 'dentry ' || parent || ': ' || count(*) || ' names with cookie ' || cookie
            FROM dentry GROUP BY parent, cookie HAVING count(*) > 1 OR cookie < 1",
    },
    // UNION, not UNION ALL: every inode is entered once, so a cycle ends.
    Rule {
        codes: &["unreachable"],
        query: "WITH RECURSIVE reached (ino) AS
                (SELECT 1 UNION SELECT d.ino FROM reached r JOIN dentry d ON d.parent = r.ino)
            SELECT 'inode ' || ino || ': not reached from the root'
            FROM inode WHERE nlink > 0 AND ino NOT IN (SELECT ino FROM reached)",
    },
    Rule {
        codes: &["file-nlink", "dir-names"],
        query: "SELECT iif(dir, NULL, 'inode ' || ino || ': nlink is ' || nlink || ', names: ' || names),
                iif(dir, 'inode ' || ino || ': a directory with ' || names || ' names', NULL)
            FROM (SELECT i.ino AS ino, i.nlink AS nlink, i.mode & 61440 = 16384 AS dir, coalesce(d.names, 0) AS names
                FROM inode i LEFT JOIN (SELECT ino, count(*) AS names FROM dentry GROUP BY ino) d ON d.ino = i.ino)
            WHERE iif(dir, nlink > 0 AND ino <> 1 AND names <> 1, nlink <> names)",
    },
    Rule {
        codes: &["dir-nlink", "dir-size"],
        query: "SELECT iif(nlink > 0 AND nlink <> 2 + dirs,
                    'inode ' || ino || ': nlink is ' || nlink || ', subdirectories: ' || dirs, NULL),
                iif(size <> cost, 'inode ' || ino || ': size is ' || size || ', its entries are charged ' || cost, NULL)
            FROM (SELECT i.ino AS ino, i.nlink AS nlink, i.size AS size, coalesce(d.dirs, 0) AS dirs,
                    coalesce(d.cost, 0) AS cost
                FROM inode i LEFT JOIN (SELECT parent, sum(kind = 4) AS dirs, sum(24 + length(name)) AS cost
                    FROM dentry GROUP BY parent) d ON d.parent = i.ino
                WHERE i.mode & 61440 = 16384)
            WHERE nlink > 0 AND nlink <> 2 + dirs OR size <> cost",
    },
    Rule {
        codes: &["symlink-target"],
        query: "SELECT 'inode ' || ino || ': ' || iif(target IS NULL, 'a symbolic link without a target',
                'a target on what is no symbolic link')
            FROM inode WHERE (mode & 61440 = 40960) <> (coalesce(length(target), 0) > 0)",
    },
    Rule {
        codes: &["symlink-size"],
        query: "SELECT 'inode ' || ino || ': size is ' || size || ', its target has ' || length(target) || ' bytes'
            FROM inode WHERE mode & 61440 = 40960 AND size <> length(target)",
    },
    Rule {
        codes: &["block-shared"],
        query: "SELECT 'data ' || data_id || ': named by ' || count(*) || ' blocks, not all of them marked as shared'
            FROM (SELECT data_id, shared FROM block UNION ALL SELECT data_id, shared FROM block_history)
            WHERE data_id <> 0 GROUP BY data_id HAVING count(*) > 1 AND min(shared) = 0",
    },
    Rule {
        codes: &["data-unused"],
        query: "SELECT 'data ' || id || ': no block names it' FROM
            (SELECT id FROM data EXCEPT SELECT data_id FROM block EXCEPT SELECT data_id FROM block_history)",
    },
    Rule {
        codes: &["orphan"],
        query: "SELECT 'inode ' || ino || ': nlink is 0, but it is not in orphan' FROM inode
                WHERE nlink = 0 AND ino NOT IN (SELECT ino FROM orphan)
            UNION ALL SELECT 'orphan ' || o.ino || ': its inode is missing or has names'
                FROM orphan o LEFT JOIN inode i ON i.ino = o.ino WHERE i.ino IS NULL OR i.nlink > 0",
    },
    Rule {
        codes: &["since"],
        query: "WITH last (txid) AS (SELECT txid FROM superblock)
            SELECT 'inode ' || ino || ': since ' || since FROM inode, last WHERE since NOT BETWEEN 0 AND txid
            UNION ALL SELECT 'dentry ' || parent || '/\"' || CAST(name AS TEXT) || '\": since ' || since
                FROM dentry, last WHERE since NOT BETWEEN 0 AND txid
            UNION ALL SELECT 'block ' || ino || '/' || idx || ': since ' || since
                FROM block, last WHERE since NOT BETWEEN 0 AND txid
            UNION ALL SELECT 'xattr ' || ino || '/\"' || CAST(name AS TEXT) || '\": since ' || since
                FROM xattr, last WHERE since NOT BETWEEN 0 AND txid",
    },
    Rule {
        codes: &["next-ids"],
        query: "SELECT 'inode ' || last || ': not below next_ino' FROM (SELECT max(ino) AS last FROM inode)
                WHERE last >= (SELECT next_ino FROM superblock)
            UNION ALL SELECT 'dentry: cookie ' || max(cookie) || ' is not below next_cookie' FROM dentry
                HAVING max(cookie) >= (SELECT next_cookie FROM superblock)
            UNION ALL SELECT 'data ' || last || ': not below next_data' FROM (SELECT max(id) AS last FROM data)
                WHERE last >= (SELECT next_data FROM superblock)
            UNION ALL SELECT 'pack ' || last || ': not below next_pack' FROM (SELECT max(id) AS last FROM pack)
                WHERE last >= (SELECT next_pack FROM superblock)
            UNION ALL SELECT 'txn ' || txid || ': sequence ' || seq || ' is not below next_seq' FROM txn
                WHERE seq >= (SELECT next_seq FROM superblock)",
    },
    Rule {
        codes: &["txn"],
        query: "SELECT 'txn: the last is ' || coalesce(t.txid, 'none') || ', the superblock is at ' || s.txid
                FROM superblock s LEFT JOIN (SELECT max(txid) AS txid FROM txn) t WHERE coalesce(t.txid, 0) <> s.txid
            UNION ALL SELECT 'txn ' || t.txid || ': its digest or epoch is not the superblock''s'
                FROM superblock s JOIN txn t ON t.txid = s.txid WHERE t.digest <> s.digest OR t.epoch > s.epoch",
    },
    Rule {
        codes: &["history"],
        query: "WITH old (what, since, until) AS (
                SELECT 'inode_history ' || ino, since, until FROM inode_history
                UNION ALL SELECT 'dentry_history ' || parent || '/\"' || CAST(name AS TEXT) || '\"', since, until
                    FROM dentry_history
                UNION ALL SELECT 'block_history ' || ino || '/' || idx, since, until FROM block_history
                UNION ALL SELECT 'xattr_history ' || ino || '/\"' || CAST(name AS TEXT) || '\"', since, until
                    FROM xattr_history)
            SELECT what || ': ' || since || ' to ' || until || ', which no checkpoint sees' FROM old
            WHERE since >= until OR until > (SELECT txid FROM superblock)
                OR NOT EXISTS (SELECT 1 FROM checkpoint c WHERE old.since <= c.txid AND c.txid < old.until)
            UNION ALL SELECT 'checkpoint ' || name || ': of transaction ' || txid || ', which has not been'
                FROM checkpoint WHERE txid > (SELECT txid FROM superblock)",
    },
];

#[cfg(test)]
mod tests {
    use crate::base::FileKind;
    use crate::base::limits::DENTRY_COST;

    #[test]
    fn the_constants_in_the_queries_are_those_of_the_code() {
        assert_eq!(libc::S_IFMT, 61_440);
        assert_eq!(FileKind::Directory.mode_bits(), 16_384);
        assert_eq!(FileKind::Directory as u8, 4);
        assert_eq!(FileKind::Regular.mode_bits(), 32_768);
        assert_eq!(FileKind::Symlink.mode_bits(), 40_960);
        assert_eq!(DENTRY_COST, 24);
    }
}
