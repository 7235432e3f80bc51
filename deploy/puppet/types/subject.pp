# @summary The local process of a policy or a segment, of exactly one kind.
#
# `user` and `group` are for egress policies only.
type Picoseg::Subject = Variant[
  Struct[{ 'unit' => String[1] }],
  Struct[{ 'cgroup' => Picoseg::Path }],
  Struct[{ 'exe' => Picoseg::Path, Optional['sha256'] => Picoseg::Sha256 }],
  Struct[{ 'user' => String[1] }],
  Struct[{ 'group' => String[1] }],
  Struct[{ 'container' => String[1] }]
]
