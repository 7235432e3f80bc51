# @summary What goes into or out of a segment without a service.
type Picoseg::Allow = Variant[
  Struct[{
    'direction' => Enum['egress'],
    'to'        => Array[Picoseg::Endpoint, 1],
    'ports'     => Array[Picoseg::Port, 1],
  }],
  Struct[{
    'direction' => Enum['ingress'],
    'from'      => Array[Picoseg::Endpoint, 1],
    'ports'     => Array[Picoseg::Port, 1],
  }]
]
