//! Who may use the admin API: keys, roles, and the key that is made when none is configured.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use actors::model::secret::Secret;
use poem::http::header::AUTHORIZATION;
use poem::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::problem::Problem;

/// Name of the file that holds the key that was made at the first start.
const KEY_FILE: &str = "admin.key";
/// The other header that may carry a key.
const API_KEY: &str = "x-api-key";

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reading.
    Viewer,
    /// Everything.
    Admin,
}

/// One key of the admin API.
#[derive(Debug)]
pub struct ApiKey {
    /// What it is called in logs.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// The key itself.
    pub key: Secret,
}

/// The owner of a valid key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Name of the key.
    pub(super) name: String,
    /// What it allows.
    pub(super) role: Role,
}

impl Caller {
    /// 403 unless the role is enough.
    pub(super) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, "the key's role is viewer; this needs admin"))
    }
}

/// The keys, as digests of equal length: comparing takes the same time whatever is presented.
pub(super) struct Keyring(Vec<(Caller, [u8; 32])>);

impl Keyring {
    /// Takes note of `keys`; an empty one opens nothing.
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        let usable = keys.iter().filter(|key| !key.key.expose().is_empty());
        Self(
            usable
                .map(|key| (Caller { name: key.name.clone(), role: key.role }, digest(key.key.expose().as_bytes())))
                .collect(),
        )
    }

    /// Whose key the request carries: `Authorization: Bearer`, else `X-API-Key`.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let refused = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
        let mut presented = headers.get_all(AUTHORIZATION).iter().chain(headers.get_all(API_KEY));
        let key = presented.next().ok_or_else(|| {
            refused("a key is needed: send it as \"Authorization: Bearer <key>\" or \"X-API-Key: <key>\"")
        })?;
        if presented.next().is_some() {
            return Err(refused("more than one key was sent"));
        }
        let key = key.as_bytes();
        let key = match headers.contains_key(AUTHORIZATION) {
            true => bearer(key).ok_or_else(|| refused("the scheme of Authorization is not Bearer"))?,
            false => key,
        };
        let presented = digest(key);
        let mut found: Option<&Caller> = None;
        for (caller, expected) in &self.0 {
            let equal: Choice = expected.ct_eq(&presented);
            if bool::from(equal) && found.is_none_or(|best| caller.role > best.role) {
                found = Some(caller);
            }
        }
        found.cloned().ok_or_else(|| refused("the key is not valid"))
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// What follows the scheme `Bearer`.
pub(super) fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// The key in `data_dir/admin.key`, which is made at the first call: 32 random bytes in hexadecimal, mode 0600.
/// The log says where a new one is, never what it is.
///
/// # Errors
/// When the directory or the file cannot be made or read, or the file holds no key.
pub fn ensure_admin_key(data_dir: &Path) -> io::Result<Secret> {
    let path = data_dir.join(KEY_FILE);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::create_dir_all(data_dir).map_err(named)?;
    if !path.try_exists().map_err(named)? {
        make_key(&path).map_err(named)?;
    }
    let mut text = String::new();
    let file = OpenOptions::new().read(true).open(&path).map_err(named)?;
    let mode = file.metadata().map_err(named)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the admin key was readable by others: its mode is set to 0600");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(named)?;
    }
    file.take(1024).read_to_string(&mut text).map_err(named)?;
    let key = text.trim();
    if key.len() < 32 || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let why = "it holds no key (at least 32 printable characters): delete it, and a new one is made";
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    Ok(Secret::new(key.to_owned()))
}

/// Makes the file in one step, so that two processes that start at once agree on one key.
fn make_key(path: &Path) -> io::Result<()> {
    let bytes: [u8; 32] = rand::random();
    let mut key = String::with_capacity(65);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            key.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    key.push('\n');
    let unfinished = path.with_extension(format!("key.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let written = file.write_all(key.as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&unfinished, path));
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => {
            tracing::info!(path = %path.display(), "no API key is configured: an admin key was made");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn ring() -> Keyring {
        let key = |name: &str, role, key: &str| ApiKey { name: name.into(), role, key: Secret::new(key.into()) };
        Keyring::new(&[
            key("reader", Role::Viewer, "look"),
            key("boss", Role::Admin, "rule"),
            key("void", Role::Admin, ""),
        ])
    }

    fn caller(headers: &[(&'static str, &str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        ring().authenticate(&map).ok().map(|caller| caller.name)
    }

    #[test]
    fn a_key_comes_as_bearer_or_as_api_key() {
        assert_eq!(caller(&[("authorization", "Bearer look")]).as_deref(), Some("reader"));
        assert_eq!(caller(&[("authorization", "bearer rule")]).as_deref(), Some("boss"));
        assert_eq!(caller(&[("x-api-key", "rule")]).as_deref(), Some("boss"));
    }

    #[test]
    fn nothing_else_opens() {
        for headers in [
            &[][..],
            &[("x-api-key", "")],
            &[("x-api-key", "loo")],
            &[("x-api-key", "Bearer look")],
            &[("authorization", "look")],
            &[("authorization", "Basic look")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer look"), ("x-api-key", "rule")],
            &[("x-api-key", "look"), ("x-api-key", "rule")],
        ] {
            assert_eq!(caller(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn the_admin_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let first = ensure_admin_key(&data_dir).unwrap();
        assert_eq!(first.expose().len(), 64);
        assert_eq!(ensure_admin_key(&data_dir).unwrap().expose(), first.expose());
        let path = data_dir.join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        ensure_admin_key(&data_dir).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_without_a_key_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY_FILE), "\n").unwrap();
        let error = ensure_admin_key(dir.path()).unwrap_err().to_string();
        assert!(error.contains("admin.key: it holds no key"), "{error}");
    }
}
