# frozen_string_literal: true

# DSL harness, not Chef: one run. First all recipes are read, then each resource acts, at the end what was notified.
module Harness
  # A run of a cookbook on this host.
  class Run
    attr_reader :cookbook, :node, :why_run, :changes

    def initialize(cookbook, attributes: {}, why_run: false, out: $stdout)
      @cookbook = cookbook
      @why_run = why_run
      @out = out
      @changes = []
      @delayed = []
      @included = []
      @root = Context.new(self)
      load_cookbook
      @node = load_attributes.merge_in(attributes).read_only
    end

    # Runs the text of a recipe. False after saying what failed; what was notified until then still acts.
    def converge(text, path)
      RecipeBody.new(@root).read(text, path)
      failure = attempt { @root.resources.each { |resource| act(resource) } }
      until @delayed.empty?
        resource, action = @delayed.shift
        failure = attempt { act(resource, action) } || failure
      end
      @out.puts("#{@changes.length} updated")
      failure.nil?
    rescue StandardError => e
      fail_with(e)
      false
    end

    def include_recipe(name, _from)
      return if @included.include?(name)

      @included << name
      cookbook, recipe = name.split('::')
      raise ArgumentError, "there is no cookbook #{cookbook}" unless cookbook == @name

      path = File.join(@cookbook, 'recipes', "#{recipe || 'default'}.rb")
      RecipeBody.new(@root).read(File.read(path), path)
    end

    def class_of(type, strict: true)
      @classes[type] || (raise NameError, "the harness has no resource #{type}" if strict)
    end

    def note(resource, what)
      @changes << "#{resource} #{what}"
      @out.puts("#{why_run ? 'would ' : ''}#{resource} #{what}")
    end

    # Has a resource act, and whoever it notifies.
    def act(resource, *actions)
      (actions.empty? ? resource.actions : actions).each do |action|
        next if action == :nothing || !resource.guards.all? { |guard| passes?(guard) }

        resource.validate(action)
        resource.updated = false
        resource.is_a?(CustomResource) ? act_custom(resource, action) : resource.act(action)
        notify(resource) if resource.updated
      end
    end

    private

    def root_context
      @root
    end

    def load_cookbook
      metadata = Metadata.new
      metadata.instance_eval(File.read(File.join(@cookbook, 'metadata.rb')), 'metadata.rb')
      @name = metadata.values.fetch(:name)
      Dir[File.join(@cookbook, 'libraries', '*.rb')].sort.each { |path| require File.expand_path(path) }
      custom = Dir[File.join(@cookbook, 'resources', '*.rb')].sort.map { |path| CustomResource.compile(@name, path) }
      @classes = CORE.merge(custom.to_h { |one| [one.type, one] })
    end

    def load_attributes
      attributes = Attributes.new
      body = AttributesBody.new(attributes)
      Dir[File.join(@cookbook, 'attributes', '*.rb')].sort.each { |path| body.instance_eval(File.read(path), path) }
      attributes
    end

    def act_custom(resource, action)
      acting = lambda do |inner|
        act(inner)
        resource.updated ||= inner.updated
      end
      body = ActionBody.new(Context.new(self, root: @root, acting: acting), resource)
      helpers = resource.class.helpers
      body.singleton_class.class_eval(&helpers) if helpers
      body.instance_exec(&resource.class.bodies.fetch(action))
    end

    def notify(resource)
      resource.notifications.each do |one|
        target = resource.context.find(one.target) || raise(Failed, "#{resource} notifies #{one.target}: there is none")
        if one.timing == :immediately
          act(target, one.action)
        elsif !@delayed.include?([target, one.action])
          @delayed << [target, one.action]
        end
      end
    end

    def passes?((wanted, command))
      Harness.sh('sh', '-c', command).last.success? == wanted
    end

    def attempt
      yield
      nil
    rescue StandardError => e
      fail_with(e)
      e
    end

    def fail_with(error)
      @out.puts("FAILED: #{error.class}: #{error.message}")
    end
  end

  # What metadata.rb says.
  class Metadata
    attr_reader :values

    def initialize
      @values = {}
    end

    %i[name maintainer license description version chef_version supports].each do |key|
      define_method(key) { |*value| @values[key] = value.length == 1 ? value.first : value }
    end
  end

  # What attribute files say.
  class AttributesBody
    attr_reader :default

    def initialize(attributes)
      @default = attributes
    end
  end
end
