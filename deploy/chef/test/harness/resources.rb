# frozen_string_literal: true

require 'erb'
require 'etc'
require 'fileutils'
require 'open3'
require 'tempfile'

# DSL harness, not Chef: the resources of Chef that the cookbook uses. Each says what it changes and, unless it is a
# rehearsal, changes it. Only the properties that are used here exist.
module Harness
  class Failed < StandardError; end

  def self.sh(*command)
    Open3.capture2e(*command)
  end

  def self.sh!(*command)
    said, status = sh(*command)
    raise Failed, "#{command.join(' ')} exited with #{status.exitstatus}: #{said}" unless status.success?

    said
  end

  # A resource that does something. An action yields what it would change; nothing, when all is as it should be.
  class CoreResource < Resource
    # Brings about one difference; the block is not called in a rehearsal.
    def change(what)
      self.updated = true
      context.run.note(self, what)
      yield unless context.run.why_run
    end

    def act(action)
      public_send(:"action_#{action}")
    end

    def action_nothing; end
  end

  # From the repositories of the host.
  class Package < CoreResource
    default_action :install
    property :package_name, String, name_property: true

    def action_install
      change('install') { Harness.sh!('apt-get', 'install', '-y', package_name) } unless version
    end

    def version
      said, status = Harness.sh('dpkg-query', '--show', '--showformat=${db:Status-Status} ${Version}', package_name)
      said[/\Ainstalled (.+)/, 1] if status.success?
    end
  end

  # From a file.
  class DpkgPackage < Package
    property :source, String, required: true
    property :options, String

    # Of :install Chef says that any version will do.
    def action_upgrade
      offered = Harness.sh!('dpkg-deb', '--field', source, 'Version').strip
      return if version == offered

      change("install version #{offered}") { Harness.sh!('dpkg', '--install', *options, source) }
    end
  end

  # Owner, group and mode of what has a path.
  module Access
    def access
      stat = File.stat(path) if File.exist?(path)
      return if stat && [stat.uid, stat.gid, stat.mode & 0o7777] == [*ids, bits]

      change("access #{mode}") { give_access(path) }
    end

    def give_access(place)
      File.chown(*ids, place)
      File.chmod(bits, place)
    end

    def ids
      [Etc.getpwnam(owner).uid, Etc.getgrnam(group).gid]
    end

    def bits
      mode.to_i(8)
    end
  end

  # A directory.
  class Directory < CoreResource
    include Access

    default_action :create
    property :path, String, name_property: true
    property :owner, String
    property :group, String
    property :mode, String

    def action_create
      change('create') { Dir.mkdir(path) && give_access(path) } unless File.directory?(path)
      access unless context.run.why_run && !File.exist?(path)
    end
  end

  # A file with a content. The new one lies beside it until it is verified, as with Chef.
  class FileResource < CoreResource
    include Access

    default_action :create
    property :path, String, name_property: true
    property :content, String
    property :owner, String
    property :group, String
    property :mode, String
    attr_reader :verifications

    def verify(command)
      (@verifications ||= []) << command
    end

    def wanted
      content
    end

    def action_create
      now = File.binread(path) if File.file?(path)
      change(difference(now.to_s, wanted)) { replace(wanted) } unless now == wanted.b
      access if now
    end

    def action_delete
      change('delete') { File.delete(path) } if File.exist?(path) || File.symlink?(path)
    end

    private

    def replace(text)
      Tempfile.create(['.chef-', File.extname(path)], File.dirname(path), binmode: true) do |staged|
        staged.write(text)
        staged.close
        verifications&.each { |command| verified(command, staged.path) }
        FileUtils.cp(staged.path, "#{path}.harness")
        give_access("#{path}.harness")
        File.rename("#{path}.harness", path)
      end
    end

    def verified(command, staged)
      said, status = Harness.sh('sh', '-c', format(command, path: staged))
      raise Failed, "Proposed content for #{path} failed verification #{command}: #{said}" unless status.success?
    end

    def difference(before, after)
      lines = after.b.lines - before.b.lines
      "write:\n#{lines.map { |line| "    +#{line.force_encoding('UTF-8')}" }.join}"
    end
  end

  # A file from a template of the cookbook.
  class Template < FileResource
    property :source, String, required: true
    property :variables, Hash, default: {}

    def wanted
      text = File.read(File.join(context.run.cookbook, 'templates', source))
      bound = Object.new
      variables.each { |key, value| bound.instance_variable_set("@#{key}", value) }
      ERB.new(text, trim_mode: '-').result(bound.instance_eval { binding })
    end
  end

  # A unit of systemd.
  class Service < CoreResource
    property :service_name, String, name_property: true
    property :reload_command, String

    def action_enable
      change('enable') { systemctl('enable') } unless is?('is-enabled')
    end

    def action_start
      change('start') { systemctl('start') } unless is?('is-active')
    end

    def action_restart
      change('restart') { systemctl('restart') }
    end

    def action_reload
      change('reload') { reload_command ? Harness.sh!('sh', '-c', reload_command) : systemctl('reload') }
    end

    private

    def is?(question)
      Harness.sh('systemctl', '--quiet', question, service_name).last.success?
    end

    def systemctl(verb)
      Harness.sh!('systemctl', verb, service_name)
    end
  end

  # Nothing but what it notifies.
  class NotifyGroup < CoreResource
    def action_run
      change('run') { nil }
    end
  end

  # A command.
  class Execute < CoreResource
    default_action :run
    property :command, String, name_property: true

    def action_run
      change('run') { Harness.sh!('sh', '-c', command) }
    end
  end

  CORE = {
    package: Package, dpkg_package: DpkgPackage, directory: Directory, file: FileResource, template: Template,
    service: Service, execute: Execute, notify_group: NotifyGroup
  }.freeze
end
