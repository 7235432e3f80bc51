# @summary `[approval]` of picoseg.toml: the roles that have to approve a schedule, and who fills them.
type Picoseg::Approval = Struct[{
  Optional['required']        => Array[String[1]],
  Optional['allowed_signers'] => Picoseg::Path,
  Optional['roles']           => Hash[String[1], Array[String[1], 1]],
}]
