# @summary `[failsafe]` of picoseg.toml: what stays reachable whatever segments and `any` policies say.
type Picoseg::Failsafe = Struct[{
  Optional['ports'] => Array[Picoseg::Port],
  Optional['from']  => Array[Picoseg::Endpoint],
}]
