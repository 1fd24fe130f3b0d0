// SPDX-License-Identifier: MPL-2.0

package examples

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
	"gopkg.in/yaml.v3"
)

// parseYAML reads objects of Kubernetes, a workflow of GitHub, a pipeline of GitLab, or a Databricks bundle. The types below have the
// fields that are known of each; any other is an error.
func parseYAML(text []byte) ([]Request, error) {
	var requests []Request
	documents := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return requests, nil
		} else if err != nil {
			return nil, err
		}
		var top map[string]yaml.Node
		if err := document.Decode(&top); err != nil {
			return nil, err
		}
		has := func(key string) bool { _, ok := top[key]; return ok }
		var of []Request
		var err error
		switch {
		case has("kind"):
			of, err = parseObject(&document)
		case has("jobs"):
			of, err = parseWorkflow(&document)
		case has("bundle"):
			err = strictly(&document, new(bundle))
		default:
			of, err = parsePipeline(&document)
		}
		if err != nil {
			return nil, err
		}
		requests = append(requests, of...)
	}
}

// strictly decodes a node, all of whose fields must be known.
func strictly(node *yaml.Node, into any) error {
	text, err := yaml.Marshal(node)
	if err != nil {
		return err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	return decoder.Decode(into)
}

// kubernetesObject is one of Kubernetes.
type kubernetesObject[Spec any] struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   map[string]string `yaml:"metadata"`
	Spec       Spec              `yaml:"spec"`
}

type (
	vaultConnection struct {
		Address string `yaml:"address"`
	}
	vaultAuth struct {
		VaultConnectionRef string `yaml:"vaultConnectionRef"`
		Method             string `yaml:"method"`
		Mount              string `yaml:"mount"`
		Kubernetes         struct {
			Role           string `yaml:"role"`
			ServiceAccount string `yaml:"serviceAccount"`
		} `yaml:"kubernetes"`
	}
	// operatorSecret is the VaultDynamicSecret of the Vault Secrets Operator.
	operatorSecret struct {
		VaultAuthRef      string            `yaml:"vaultAuthRef"`
		Namespace         string            `yaml:"namespace"`
		Mount             string            `yaml:"mount"`
		Path              string            `yaml:"path"`
		Params            map[string]string `yaml:"params"`
		RequestHTTPMethod string            `yaml:"requestHTTPMethod"`
		RefreshAfter      string            `yaml:"refreshAfter"`
		RenewalPercent    int               `yaml:"renewalPercent"`
		Revoke            bool              `yaml:"revoke"`
		AllowStaticCreds  bool              `yaml:"allowStaticCreds"`
		Destination       struct {
			Name   string `yaml:"name"`
			Create bool   `yaml:"create"`
		} `yaml:"destination"`
		RolloutRestartTargets []struct {
			Kind string `yaml:"kind"`
			Name string `yaml:"name"`
		} `yaml:"rolloutRestartTargets"`
	}
	// generator is the VaultDynamicSecret of the External Secrets Operator.
	generator struct {
		Path          string              `yaml:"path"`
		Method        string              `yaml:"method"`
		Parameters    map[string]any      `yaml:"parameters"`
		GetParameters map[string][]string `yaml:"getParameters"`
		ResultType    string              `yaml:"resultType"`
		Provider      struct {
			Server string `yaml:"server"`
			Auth   struct {
				Kubernetes struct {
					MountPath string `yaml:"mountPath"`
					Role      string `yaml:"role"`
				} `yaml:"kubernetes"`
			} `yaml:"auth"`
		} `yaml:"provider"`
	}
	externalSecret struct {
		RefreshInterval string `yaml:"refreshInterval"`
		Target          struct {
			Name string `yaml:"name"`
		} `yaml:"target"`
		DataFrom []struct {
			SourceRef struct {
				GeneratorRef struct {
					APIVersion string `yaml:"apiVersion"`
					Kind       string `yaml:"kind"`
					Name       string `yaml:"name"`
				} `yaml:"generatorRef"`
			} `yaml:"sourceRef"`
		} `yaml:"dataFrom"`
	}
)

func parseObject(document *yaml.Node) ([]Request, error) {
	var header struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	if err := document.Decode(&header); err != nil {
		return nil, err
	}
	switch header.APIVersion + " " + header.Kind {
	case "secrets.hashicorp.com/v1beta1 VaultConnection":
		return nil, strictly(document, new(kubernetesObject[vaultConnection]))
	case "secrets.hashicorp.com/v1beta1 VaultAuth":
		return nil, strictly(document, new(kubernetesObject[vaultAuth]))
	case "external-secrets.io/v1 ExternalSecret":
		return nil, strictly(document, new(kubernetesObject[externalSecret]))
	case "secrets.hashicorp.com/v1beta1 VaultDynamicSecret":
		var o kubernetesObject[operatorSecret]
		if err := strictly(document, &o); err != nil {
			return nil, err
		}
		return operatorRequest(o.Spec)
	case "generators.external-secrets.io/v1alpha1 VaultDynamicSecret":
		var o kubernetesObject[generator]
		if err := strictly(document, &o); err != nil {
			return nil, err
		}
		return generatorRequest(o.Spec)
	}
	return nil, fmt.Errorf("%s %s is not known", header.APIVersion, header.Kind)
}

// operatorRequest returns the read of the Vault Secrets Operator. It parses static credentials strictly.
func operatorRequest(spec operatorSecret) ([]Request, error) {
	request := Request{Operation: logical.ReadOperation, Path: spec.Mount + "/" + spec.Path, Data: map[string]any{}}
	for name, value := range spec.Params {
		request.Data[name] = value
		request.Operation = logical.UpdateOperation
	}
	static := strings.HasPrefix(spec.Path, "static-creds/")
	switch {
	case static != spec.AllowStaticCreds:
		return nil, errors.New("allowStaticCreds goes with static-creds, and only with these")
	case static:
		request.Strings, request.Numbers = []string{"last_vault_rotation"}, []string{"rotation_period", "ttl"}
	case spec.RenewalPercent < 1 || spec.RenewalPercent > 90:
		return nil, fmt.Errorf("renewalPercent %d is not from 1 to 90", spec.RenewalPercent)
	}
	return []Request{request}, nil
}

func generatorRequest(spec generator) ([]Request, error) {
	request := Request{Operation: logical.ReadOperation, Path: spec.Path, Data: map[string]any{}}
	for name, value := range spec.Parameters {
		request.Data[name] = value
	}
	for name, values := range spec.GetParameters {
		request.Data[name] = values[0]
	}
	switch spec.Method {
	case "GET":
	case "POST", "PUT":
		request.Operation = logical.UpdateOperation
	default:
		return nil, fmt.Errorf("method %q is not known", spec.Method)
	}
	if spec.ResultType != "Data" {
		return nil, fmt.Errorf("resultType is %q; the credential is in Data", spec.ResultType)
	}
	return []Request{request}, nil
}

// workflow is one of GitHub.
type workflow struct {
	Name        string            `yaml:"name"`
	On          any               `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]struct {
		RunsOn string `yaml:"runs-on"`
		Steps  []struct {
			Name string            `yaml:"name"`
			Uses string            `yaml:"uses"`
			With map[string]string `yaml:"with"`
			If   string            `yaml:"if"`
			Run  string            `yaml:"run"`
		} `yaml:"steps"`
	} `yaml:"jobs"`
}

// actionInputs are those inputs of hashicorp/vault-action that the examples may have.
var actionInputs = []string{"url", "namespace", "method", "path", "role", "jwtGithubAudience", "caCertificate", "exportEnv", "exportToken", "secrets"}

var secretLine = regexp.MustCompile(`^(\S+) (\S+) \| ([A-Z_]+)$`)

func parseWorkflow(document *yaml.Node) ([]Request, error) {
	var w workflow
	if err := strictly(document, &w); err != nil {
		return nil, err
	}
	var requests []Request
	for _, job := range w.Jobs {
		for _, step := range job.Steps {
			of, err := parseCommands(step.Run)
			if err != nil {
				return nil, err
			}
			requests = append(requests, of...)
			if !strings.HasPrefix(step.Uses, "hashicorp/vault-action@") {
				continue
			}
			for input := range step.With {
				if !slices.Contains(actionInputs, input) {
					return nil, fmt.Errorf("vault-action has no input %q", input)
				}
			}
			for line := range strings.SplitSeq(step.With["secrets"], ";") {
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				parts := secretLine.FindStringSubmatch(line)
				if parts == nil {
					return nil, fmt.Errorf("%q is not <path> <field> | <VARIABLE>", line)
				}
				requests = append(requests, Request{Operation: logical.ReadOperation, Path: parts[1], Answer: []string{parts[2]}})
			}
		}
	}
	return requests, nil
}

// parsePipeline reads a pipeline of GitLab.
func parsePipeline(document *yaml.Node) ([]Request, error) {
	var jobs map[string]struct {
		Stage     string            `yaml:"stage"`
		Variables map[string]string `yaml:"variables"`
		IDTokens  map[string]struct {
			Aud string `yaml:"aud"`
		} `yaml:"id_tokens"`
		Script []string            `yaml:"script"`
		Rules  []map[string]string `yaml:"rules"`
	}
	if err := strictly(document, &jobs); err != nil {
		return nil, err
	}
	var requests []Request
	for name, job := range jobs {
		if len(job.Script) == 0 {
			return nil, fmt.Errorf("job %s has no script", name)
		}
		of, err := parseCommands(strings.Join(job.Script, "\n"))
		if err != nil {
			return nil, err
		}
		requests = append(requests, of...)
	}
	return requests, nil
}

// bundle is one of Databricks. It asks nothing of Vault, and must not name a host or a credential.
type bundle struct {
	Bundle struct {
		Name string `yaml:"name"`
	} `yaml:"bundle"`
	Targets map[string]struct {
		Mode      string `yaml:"mode"`
		Workspace struct {
			RootPath string `yaml:"root_path"`
		} `yaml:"workspace"`
	} `yaml:"targets"`
	Resources any `yaml:"resources"`
}
