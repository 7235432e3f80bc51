# frozen_string_literal: true

module PicosegCookbook
  # The files of picoseg as the node wants them, and what follows when they change.
  module Files
    HEADER = "# Managed by Chef, cookbook picoseg: what is changed here is changed back.\n"
    NAME = /\A[a-z0-9][a-z0-9-]{0,62}\z/.freeze
    SETTINGS = '/etc/picoseg/picoseg.toml'
    PATHS = {
      'services' => '/etc/picoseg/services.d', 'segments' => '/etc/picoseg/segments.d', 'lists' => '/etc/picoseg/lists'
    }.freeze
    # Woven into what is open: they cannot change while the daemon runs. A restart leaves the table in force.
    RESTART = { 'paths' => %w[state runtime], 'enforcement' => %w[table protect], 'attempts' => %w[log_group] }.freeze

    module_function

    # A file in TOML; keys without a value are left out.
    def toml(table)
      HEADER + Toml.document(table)
    end

    # An endpoint list. A line is an entry, so an entry is a line.
    def list(name, entries)
      entries.each do |entry|
        next unless entry.match?(/[\u0000-\u0008\u000a-\u001f]/)

        raise ArgumentError, "an entry of the list #{name} has a line break or a control character"
      end
      HEADER + entries.map { |entry| "#{entry}\n" }.join
    end

    # Where the files of a kind are, by the settings.
    def directory(settings, kind)
      (settings['paths'] || {})[kind] || PATHS.fetch(kind)
    end

    # True when the settings in the file `path` differ from `text` in one that needs a restart.
    def restart?(path, text)
      before = File.exist?(path) ? File.read(path) : ''
      settings_with_restart(before) != settings_with_restart(text)
    end

    def settings_with_restart(text)
      section = nil
      text.each_line.with_object({}) do |line, found|
        section = line[/\A\s*\[([^\[\]]+)\]/, 1] || section
        key, value = line[/\A[^#]*/].split('=', 2).map(&:strip)
        found[[section, key]] = value if value && RESTART.fetch(section, []).include?(key)
      end
    end
  end

  # For the actions of the resources. Chef's own resources do the work, so that rehearsals and differences are Chef's.
  module Actions
    def picoseg_file(kind, name, text)
      picosegd
      file path_of(kind, name) do
        content text
        owner 'root'
        group 'root'
        mode '0644'
        verify "picoseg check --as #{kind.chomp('s')} %{path}"
        notifies :reload, 'service[picosegd]', :delayed
      end
    end

    def no_picoseg_file(kind, name)
      picosegd
      file path_of(kind, name) do
        action :delete
        notifies :reload, 'service[picosegd]', :delayed
      end
    end

    # One service for all of them, so that picoseg loads its files once a run.
    def picosegd
      with_run_context(:root) do
        find_resource(:service, 'picosegd') do
          reload_command 'picoseg apply'
          action :nothing
        end
      end
    end

    def path_of(kind, name)
      ending = kind == 'lists' ? 'txt' : 'toml'
      File.join(Files.directory(node['picoseg']['settings'], kind), "#{name}.#{ending}")
    end
  end
end
