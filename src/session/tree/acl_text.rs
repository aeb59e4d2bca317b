//! ACLs as tar archives carry them for other programs (`SCHILY.acl.*`): text, as acl_to_text(3) writes it.

/// The xattrs that hold ACLs, and the records that say the same.
pub(super) const ACLS: [(&[u8], &[u8]); 2] =
    [(b"system.posix_acl_access", b"SCHILY.acl.access"), (b"system.posix_acl_default", b"SCHILY.acl.default")];

/// Version of the xattr's layout: a u32, then for each entry a tag (u16), permissions (u16) and an id (u32).
const VERSION: u32 = 2;
const ENTRY: usize = 8;
/// The id of an entry that is for nobody in particular.
const NO_ID: u32 = u32::MAX;

/// The tags: `ACL_USER_OBJ`, `ACL_USER` and so on, with the words for them and whether an id belongs to them.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// An xattr's value as text; ids are numbers. `None` when it is no ACL.
pub(super) fn to_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY != 0 {
        return None;
    }
    let mut lines = Vec::new();
    for entry in entries.chunks_exact(ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (_, word, named) = TAGS.iter().find(|(known, ..)| *known == tag)?;
        let id = if *named { id.to_string() } else { String::new() };
        let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
        lines.push(format!("{word}:{id}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    Some(lines.join("\n"))
}

/// The xattr's value for a text: entries behind commas or on lines of their own, with words or their first letters. `None`
/// when it names somebody by a name without a number: whose name that is, only the host that wrote it knows.
pub(super) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for line in text.split(['\n', ',']).map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if line.is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        // star puts the number behind: `user:lp:rw-:4`.
        let (word, name, letters) = (*fields.first()?, *fields.get(1)?, *fields.get(2)?);
        let named = !name.is_empty();
        let known = |known: &str| known == word || (word.len() == 1 && known.starts_with(word));
        let (tag, ..) = TAGS.iter().find(|(_, words, with_id)| known(words) && *with_id == named)?;
        let id = if named { fields.get(3).unwrap_or(&name).parse().ok()? } else { NO_ID };
        let mut bits = 0;
        for letter in letters.chars() {
            bits |= match letter {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => return None,
            };
        }
        entries.push((*tag, id, bits));
    }
    // The kernel wants them in this order.
    entries.sort_unstable();
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, bits) in &entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&bits.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    (!entries.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_come_back_from_text_in_any_of_its_forms() {
        let lines = "user::rw-\nuser:1000:r-x\ngroup::r--\ngroup:7:---\nmask::r-x\nother::---";
        let value = from_text(lines.as_bytes()).unwrap();
        assert_eq!(value.len(), 4 + 6 * ENTRY);
        assert_eq!(to_text(&value).unwrap(), lines);
        let short = b"u::rw-,o::---,g::r--,g:7:---,m::r-x,u:lp:r-x:1000";
        assert_eq!(from_text(short).unwrap(), value, "the order is the kernel's");
        assert_eq!(from_text(b"user::rw- # owner\n\n"), from_text(b"user::rw-"));
        for bad in [&b""[..], b"user:lp:rw-", b"user:", b"nobody::rw-", b"user::rwz", b"\xff", b"mask:3:rwx"] {
            assert_eq!(from_text(bad), None, "{}", bad.escape_ascii());
        }
        assert_eq!(to_text(&value[..9]), None);
    }
}
