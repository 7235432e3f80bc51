# @summary A policy: the provider connects to local ports of the subject.
type Picoseg::Ingress = Struct[{
  'subject'           => Picoseg::Subject,
  'from'              => Array[Picoseg::Endpoint, 1],
  'ports'             => Array[Picoseg::Port, 1],
  Optional['windows'] => Array[String[1], 1],
}]
