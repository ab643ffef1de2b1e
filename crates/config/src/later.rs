//! Keys of the Go implementation that this version does not honour. None of them is ignored in
//! silence: what asks for something is refused, what asks for nothing yet is warned about.

use serde_json::{Value, json};

use crate::secret::{Raw, Secret};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Refused, unless it has one of these values, which ask for nothing.
    Later(&'static [&'static str]),
    /// It only shapes what [`Fate::Later`] keys switch on: a warning.
    Detail,
    /// It had no effect in the Go implementation and has none here: a warning.
    Retired,
}

/// A key that does not work.
#[derive(Debug)]
pub(crate) struct Later {
    /// Its path; with `.*` at the end everything below is meant.
    pub(crate) path: &'static str,
    pub(crate) fate: Fate,
    /// What it belongs to, for people.
    pub(crate) part: &'static str,
    pub(crate) secret: bool,
}

/// What to say about a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Nothing,
    Warning(String),
    Error(String),
}

impl Later {
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self.path.strip_suffix(".*") {
            Some(section) => {
                path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
                    || path == section
            }
            None => path == self.path,
        }
    }

    /// Judges a value without ever repeating it.
    pub(crate) fn judge(&self, raw: &Raw) -> Say {
        match self.fate {
            Fate::Later(idle) if is_idle(raw, idle) => Say::Nothing,
            Fate::Later([]) => {
                Say::Error(format!("{} not supported by this version yet; remove it", self.part))
            }
            Fate::Later([first, ..]) => Say::Error(format!(
                "{} not supported by this version yet; remove it, or set it to {first}",
                self.part
            )),
            Fate::Detail if raw.is_empty() => Say::Nothing,
            Fate::Detail => Say::Warning(format!(
                "it has no effect: {} not supported by this version yet",
                self.part
            )),
            Fate::Retired => {
                Say::Warning("it has no effect, nor had it ever; remove it".to_owned())
            }
        }
    }

    pub(crate) fn schema(&self) -> Value {
        let says = match self.fate {
            Fate::Retired => "No effect, nor had it ever.".to_owned(),
            Fate::Later(_) | Fate::Detail => {
                let mut part = self.part.to_owned();
                part[..1].make_ascii_uppercase();
                format!("{part} not supported by this version yet.")
            }
        };
        match self.secret {
            true => json!({ "deprecated": true, "description": says, "writeOnly": true }),
            false => json!({ "deprecated": true, "description": says }),
        }
    }
}

fn is_idle(raw: &Raw, idle: &[&str]) -> bool {
    let matters = |text: &Secret| !text.expose().is_empty();
    match raw {
        Raw::One(text) => !matters(text) || idle.contains(&text.expose()),
        Raw::Many(items) => !items.iter().any(matters),
    }
}

/// The entry of a path.
pub(crate) fn find(path: &str) -> Option<&'static Later> {
    ALL.iter().find(|later| later.matches(path))
}

const FALLBACK: &str = "admin rights for auth.api_key are";
const OIDC: &str = "OIDC is";
const SHARED: &str = "the shared pool is";
const DOCKER: &str = "the docker provider is";
const FIRECRACKER: &str = "the firecracker provider is";
const PROOT: &str = "the proot provider is";
const E2B: &str = "the e2b provider is";
const CUSTOM: &str = "the custom provider is";

const OFF: Fate = Fate::Later(&["false"]);
const EMPTY: Fate = Fate::Later(&[]);

const fn later(path: &'static str, fate: Fate, part: &'static str) -> Later {
    Later { path, fate, part, secret: false }
}

const fn secret(path: &'static str, fate: Fate, part: &'static str) -> Later {
    Later { path, fate, part, secret: true }
}

/// Every one. An exact path stands before the `.*` that would match it too.
pub(crate) static ALL: &[Later] = &[
    later("providers.firecracker.enabled", OFF, FIRECRACKER),
    later("providers.firecracker.firecracker_path", Fate::Detail, FIRECRACKER),
    later("providers.firecracker.kernel_path", Fate::Detail, FIRECRACKER),
    later("providers.firecracker.default_rootfs", Fate::Detail, FIRECRACKER),
    later("providers.firecracker.agent_path", Fate::Detail, FIRECRACKER),
    later("providers.firecracker.data_dir", Fate::Detail, FIRECRACKER),
    later("providers.e2b.enabled", OFF, E2B),
    secret("providers.e2b.api_key", Fate::Detail, E2B),
    later("providers.e2b.base_url", Fate::Detail, E2B),
    later("providers.custom.enabled", OFF, CUSTOM),
    later("providers.custom.name", Fate::Detail, CUSTOM),
    later("providers.custom.base_url", Fate::Detail, CUSTOM),
    secret("providers.custom.api_key", Fate::Detail, CUSTOM),
    later("providers.custom.timeout", Fate::Detail, CUSTOM),
    later("providers.docker.enabled", OFF, DOCKER),
    later("providers.docker.socket", Fate::Detail, DOCKER),
    later("providers.docker.runtime", Fate::Detail, DOCKER),
    later("providers.docker.default_image", Fate::Detail, DOCKER),
    later("providers.docker.network_mode", Fate::Detail, DOCKER),
    later("providers.docker.seccomp_profile", Fate::Detail, DOCKER),
    later("providers.docker.read_only_rootfs", Fate::Detail, DOCKER),
    later("providers.docker.memory", Fate::Detail, DOCKER),
    later("providers.docker.cpus", Fate::Detail, DOCKER),
    later("providers.docker.pids_limit", Fate::Detail, DOCKER),
    later("providers.docker.user", Fate::Detail, DOCKER),
    later("providers.docker.dropped_caps", Fate::Detail, DOCKER),
    later("providers.docker.added_caps", Fate::Detail, DOCKER),
    later("providers.docker.tmpfs.*", Fate::Detail, DOCKER),
    later("providers.docker.pool_security.per_user_uid", Fate::Retired, DOCKER),
    later("providers.docker.pool_security.pid_namespace", Fate::Retired, DOCKER),
    later("providers.docker.pool_security.workspace_permissions", Fate::Retired, DOCKER),
    later("providers.docker.pool_security.hidepid", Fate::Retired, DOCKER),
    later("providers.proot.enabled", OFF, PROOT),
    later("providers.proot.proot_binary", Fate::Detail, PROOT),
    later("providers.proot.rootfs_path", Fate::Detail, PROOT),
    later("providers.proot.workspace_base", Fate::Detail, PROOT),
    later("providers.proot.default_timeout", Fate::Detail, PROOT),
    later("providers.proot.max_sandboxes", Fate::Detail, PROOT),
    later("providers.proot.max_memory_mb", Fate::Retired, PROOT),
    later("providers.proot.max_disk_mb", Fate::Retired, PROOT),
    later("providers.proot.languages", Fate::Retired, PROOT),
    later("defaults.pool_template", Fate::Retired, SHARED),
    later("auth.admin_fallback_enabled", Fate::Detail, FALLBACK),
    later("auth.oidc_enabled", OFF, OIDC),
    later("auth.oidc_issuer", EMPTY, OIDC),
    later("auth.oidc_audience", EMPTY, OIDC),
    later("auth.oidc_jwks_url", EMPTY, OIDC),
    secret("auth.oidc_public_key", EMPTY, OIDC),
    later("auth.oidc_public_key_file", EMPTY, OIDC),
    later("auth.oidc_groups_claim", Fate::Detail, OIDC),
    later("auth.oidc_tenant_claim", Fate::Detail, OIDC),
    later("auth.oidc_admin_groups", EMPTY, OIDC),
    later("auth.oidc_operator_groups", EMPTY, OIDC),
    later("auth.oidc_viewer_groups", EMPTY, OIDC),
    later("pool.enabled", OFF, SHARED),
    later("pool.max_vms", Fate::Detail, SHARED),
    later("pool.max_users_per_vm", Fate::Detail, SHARED),
    later("pool.image", Fate::Detail, SHARED),
    later("pool.memory_mb", Fate::Detail, SHARED),
    later("pool.vcpus", Fate::Detail, SHARED),
    later("pool.overflow", Fate::Retired, SHARED),
];
