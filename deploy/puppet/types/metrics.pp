# @summary `[metrics]` of picoseg.toml.
type Picoseg::Metrics = Struct[{
  Optional['listen'] => String,
}]
