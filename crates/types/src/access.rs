//! What a credential may do.

use std::fmt;

/// A set of rights; each holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at things.
    Viewer,
    /// Also makes, uses and ends sandboxes.
    Api,
    /// Also tends the server: quotas, workers, what concerns every owner.
    Operator,
    /// Also hands out credentials: everything.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: &[Self] = &[Self::Viewer, Self::Api, Self::Operator, Self::Admin];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Api => "api",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role with this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_holds_those_before_it_and_has_one_name() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(*role));
        }
        assert_eq!(Role::parse("Admin"), None);
    }
}
