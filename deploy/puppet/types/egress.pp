# @summary A policy: the local subject connects to the provider.
type Picoseg::Egress = Struct[{
  'subject'           => Picoseg::Subject,
  'to'                => Array[Picoseg::Endpoint, 1],
  'ports'             => Array[Picoseg::Port, 1],
  Optional['tls']     => Enum['required'],
  Optional['windows'] => Array[String[1], 1],
}]
