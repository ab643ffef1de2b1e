//! What callers do with sandboxes, by the names that metrics, events and audit records use.

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident => $text:literal, $action:literal,)*) => {
        /// One kind of work that a caller asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The name in events and audit records.
            pub const fn action(self) -> &'static str {
                match self { $(Self::$name => $action,)* }
            }
        }
    };
}

operations! {
    /// A sandbox is made.
    Spawn => "spawn", "sandbox.spawn",
    /// A command runs and its output is answered at the end.
    Exec => "exec", "exec",
    /// A command runs and its output is answered while it does.
    ExecStream => "exec_stream", "exec.stream",
    /// A sandbox is ended.
    Destroy => "destroy", "sandbox.destroy",
    /// A file is written.
    FileWrite => "file_write", "file.write",
    /// A file is read.
    FileRead => "file_read", "file.read",
    /// A directory is listed.
    FileList => "file_list", "file.list",
    /// A path is removed.
    FileDelete => "file_delete", "file.delete",
    /// A path is moved.
    FileMove => "file_move", "file.move",
    /// A path's permissions are changed.
    FileChmod => "file_chmod", "file.chmod",
    /// A path is looked at.
    FileStat => "file_stat", "file.stat",
    /// A pattern is matched.
    FileGlob => "file_glob", "file.glob",
}
