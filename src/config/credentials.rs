//! Credentials for GitHub: each by itself, and which of them a group uses.

use actors::id::ManagerName;
use actors::model::secret::Secret;

use super::keys::RawCredential;
use super::read::{Field, Reader, Spot};
use super::types::AppNumber;
use super::{CredentialConfig, GitHubCredential};

/// Name of the credential at the top level.
pub(super) const DEFAULT: &str = "default";

/// A value that the Python original leaves empty, or 0, to say that there is none.
pub(super) enum Given<T> {
    Yes(T, Spot),
    /// Given, but wrong; already reported.
    Wrong,
    No,
}

impl<T> Given<T> {
    pub(super) fn is_no(&self) -> bool {
        matches!(self, Self::No)
    }

    pub(super) fn option(self) -> Option<(T, Spot)> {
        match self {
            Self::Yes(value, spot) => Some((value, spot)),
            Self::Wrong | Self::No => None,
        }
    }

    fn spot(&self) -> Option<&Spot> {
        match self {
            Self::Yes(_, spot) => Some(spot),
            Self::Wrong | Self::No => None,
        }
    }
}

fn given<T>(field: Field<T>, none: impl FnOnce(&T) -> bool) -> Given<T> {
    match field.value {
        Some(value) if none(&value) => Given::No,
        Some(value) => Given::Yes(value, field.spot),
        None if field.given => Given::Wrong,
        None => Given::No,
    }
}

pub(super) fn given_secret(field: Field<Secret>) -> Given<Secret> {
    given(field, |secret| secret.expose().trim().is_empty())
}

fn number(field: Field<AppNumber>) -> Given<AppNumber> {
    given(field, |number| number.0 == 0)
}

pub(super) fn visible_ascii(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

/// The keys of one credential.
struct Keys {
    /// The mapping they are in.
    here: Spot,
    /// What their names begin with.
    prefix: &'static str,
    /// The variable that can hold the App's key from a file.
    file_variable: &'static str,
    token: Given<Secret>,
    app_id: Given<AppNumber>,
    private_key: Given<Secret>,
    installation_id: Given<AppNumber>,
}

/// The keys at the top level.
pub(super) struct TopLevel {
    pub(super) here: Spot,
    pub(super) base_url: Option<String>,
    pub(super) token: Field<Secret>,
    pub(super) app_id: Field<AppNumber>,
    pub(super) private_key: Field<Secret>,
    pub(super) installation_id: Field<AppNumber>,
}

/// All credentials of the configuration.
pub(super) struct Credentials {
    /// Those that are right, that of the top level first.
    pub(super) all: Vec<CredentialConfig>,
    /// Names that groups may give, also of those that are wrong.
    names: Vec<String>,
    /// Where the top level has one, right or wrong.
    top: Option<Spot>,
}

impl Credentials {
    /// Reads them all, and reports what is wrong with each.
    pub(super) fn new(top: TopLevel, named: Field<Vec<RawCredential>>, reader: &mut Reader) -> Self {
        let named_wrong = named.given && named.value.is_none();
        let named = named.value.unwrap_or_default();
        let mut credentials = Self { all: Vec::new(), names: Vec::new(), top: None };
        let base_url = top.base_url.clone();
        let keys = Keys {
            here: top.here,
            prefix: "github_",
            file_variable: "GITHUB_PRIVATE_KEY_FILE",
            token: given_secret(top.token),
            app_id: number(top.app_id),
            private_key: given_secret(top.private_key),
            installation_id: number(top.installation_id),
        };
        let absent = keys.token.is_no() && keys.app_id.is_no() && keys.private_key.is_no();
        if !absent || (named.is_empty() && !named_wrong) {
            let spots = [keys.token.spot(), keys.app_id.spot(), keys.private_key.spot()];
            credentials.top = Some(spots.into_iter().flatten().next().unwrap_or(&keys.here).clone());
            let credential = credential(keys, reader);
            credentials.add(DEFAULT.to_owned(), base_url.clone(), credential);
        } else if let Given::Yes(_, spot) = keys.installation_id {
            reader.ineffective.push(spot.path);
        }
        for raw in named {
            let RawCredential { here, name, token, app_id, private_key, installation_id, base_url: own_url } = raw;
            let keys = Keys {
                here,
                prefix: "",
                file_variable: "GITHUB_CREDENTIALS_FILE",
                token: given_secret(token),
                app_id: number(app_id),
                private_key: given_secret(private_key),
                installation_id: number(installation_id),
            };
            let credential = credential(keys, reader);
            let Some(value) = name.value else { continue };
            if credentials.names.iter().any(|known| known == value.as_str()) {
                let found = format!("{:?}, the name of another credential", value.as_str());
                let expected = format!("a name that is used once (that of the top level is called {DEFAULT:?})");
                reader.wrong_at(&name.spot, found, expected);
                continue;
            }
            let url = if own_url.given { own_url.value.map(|url| url.0) } else { base_url.clone() };
            credentials.add(value.to_string(), url, credential);
        }
        credentials
    }

    fn add(&mut self, name: String, base_url: Option<String>, credential: Option<GitHubCredential>) {
        self.names.push(name.clone());
        if let (Some(base_url), Some(credential)) = (base_url, credential) {
            self.all.push(CredentialConfig { name, base_url, credential });
        }
    }

    /// The name of the credential that a group at `here` uses; `None` after reporting that there is none.
    pub(super) fn of_group(&self, here: &Spot, named: &Field<ManagerName>, reader: &mut Reader) -> Option<String> {
        let names = || self.names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        match &named.value {
            Some(name) if self.names.iter().any(|known| known == name.as_str()) => Some(name.to_string()),
            Some(name) => {
                let found = format!("{:?}, which no credential is called", name.as_str());
                let expected = format!("the name of one in github_credentials ({})", names());
                reader.wrong_at(&named.spot, found, expected);
                None
            }
            None if named.given => None,
            None if self.top.is_some() => Some(DEFAULT.to_owned()),
            None => {
                let spot = Spot { at: here.at.clone(), path: format!("{}.github_credential", here.path) };
                let expected = format!("the name of one in github_credentials ({}), or one at the top level", names());
                reader.wrong_at(&spot, "no GitHub credential for this group", expected);
                None
            }
        }
    }

    /// Reports a credential at the top level that no group uses, by what the groups name.
    pub(super) fn unused<'a>(&self, groups: impl Iterator<Item = &'a Field<ManagerName>>, reader: &mut Reader) {
        // A name that is unknown is reported by itself, and may have meant this one.
        let other = |named: &Field<ManagerName>| {
            named.value.as_ref().is_some_and(|name| self.names.iter().any(|known| known == name.as_str()))
        };
        let mut groups = groups.peekable();
        if let Some(spot) = &self.top
            && groups.peek().is_some()
            && groups.all(other)
        {
            let found = "a credential that no group uses: each has a github_credential";
            reader.wrong_at(spot, found, "a group without github_credential, or no credential here");
        }
    }
}

fn credential(keys: Keys, reader: &mut Reader) -> Option<GitHubCredential> {
    let Keys { here, prefix, file_variable, token, app_id, private_key, installation_id } = keys;
    let below = if prefix.is_empty() { format!("{}.", here.path) } else { prefix.to_owned() };
    let missing = |name: &str| Spot { at: here.at.clone(), path: format!("{below}{name}") };
    let app = format!("{prefix}app_id and {prefix}private_key (a GitHub App)");
    if token.is_no() && app_id.is_no() && private_key.is_no() {
        reader.wrong_at(&missing("token"), "no GitHub credential", format!("{prefix}token, or {app}"));
        return None;
    }
    if let (Given::Yes(_, spot), Given::Yes(_, other), _) | (Given::Yes(_, spot), _, Given::Yes(_, other)) =
        (&token, &app_id, &private_key)
    {
        let found = format!("two GitHub credentials (the other: {} at {})", other.path, other.at);
        reader.wrong_at(spot, found, format!("either {prefix}token, or {app}"));
        return None;
    }
    match (token, app_id, private_key) {
        (Given::Yes(token, spot), ..) => {
            if !visible_ascii(token.expose()) {
                reader.wrong_at(
                    &spot,
                    "spaces, line breaks or other characters",
                    "a token of visible ASCII characters",
                );
                return None;
            }
            match installation_id {
                Given::Yes(_, spot) if prefix.is_empty() => {
                    reader.wrong_at(&spot, "an installation beside a token", "it beside app_id only");
                    return None;
                }
                Given::Yes(_, spot) => reader.ineffective.push(spot.path),
                Given::Wrong | Given::No => {}
            }
            Some(GitHubCredential::Token(token))
        }
        (_, Given::Yes(app_id, _), Given::Yes(key, spot)) => {
            let private_key = pem(key, &spot, file_variable, reader)?;
            let installation_id = match installation_id {
                Given::Yes(id, _) => Some(id.0),
                Given::No => None,
                Given::Wrong => return None,
            };
            Some(GitHubCredential::App { app_id: app_id.0, private_key, installation_id })
        }
        (_, Given::Yes(_, spot), Given::No) => {
            let missing = Spot { at: spot.at, ..missing("private_key") };
            reader.wrong_at(&missing, format!("{prefix}app_id alone"), format!("{prefix}private_key beside it"));
            None
        }
        (_, Given::No, Given::Yes(_, spot)) => {
            let missing = Spot { at: spot.at, ..missing("app_id") };
            reader.wrong_at(&missing, format!("{prefix}private_key alone"), format!("{prefix}app_id beside it"));
            None
        }
        _ => None,
    }
}

/// Checks that a key is PEM text; `\n` written as two characters, as in one-line variables, is accepted.
fn pem(key: Secret, spot: &Spot, file_variable: &str, reader: &mut Reader) -> Option<Secret> {
    let key = if key.expose().contains('\n') { key } else { Secret::new(key.expose().replace("\\n", "\n")) };
    let text = key.expose();
    let pem =
        text.trim_start().starts_with("-----BEGIN ") && text.contains("PRIVATE KEY-----") && text.contains("-----END ");
    if !pem {
        reader.wrong_at(
            spot,
            "another form (not shown)",
            format!("PEM text (-----BEGIN … PRIVATE KEY-----); to name a file set {file_variable}"),
        );
        return None;
    }
    Some(key)
}
