# frozen_string_literal: true

# `picoseg apply` is what `systemctl reload picosegd` runs; asked directly, it says which file is wrong, and where.
service 'picosegd' do
  reload_command 'picoseg apply'
  action %i[enable start]
end

# What is in force may differ from files that are as they should be: somebody applied others, or picoseg could not take them
# at the last run. What later resources change in this run notifies by itself.
notify_group 'what is in force is not what the files say' do
  not_if 'picoseg plan --exit-code'
  notifies :reload, 'service[picosegd]', :delayed
  action :run
end
