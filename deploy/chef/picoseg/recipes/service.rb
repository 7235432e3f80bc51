# frozen_string_literal: true

# `picoseg apply` is what `systemctl reload picosegd` runs; asked directly, it says which file is wrong, and where.
service 'picosegd' do
  reload_command 'picoseg apply'
  action %i[enable start]
end
