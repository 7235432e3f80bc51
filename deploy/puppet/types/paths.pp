# @summary `[paths]` of picoseg.toml.
type Picoseg::Paths = Struct[{
  Optional['services'] => Picoseg::Path,
  Optional['segments'] => Picoseg::Path,
  Optional['lists']    => Picoseg::Path,
  Optional['state']    => Picoseg::Path,
  Optional['runtime']  => Picoseg::Path,
}]
