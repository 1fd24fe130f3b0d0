// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/client"
	"github.com/databricks/databricks-sdk-go/config"
	"github.com/databricks/databricks-sdk-go/service/compute"
	"github.com/databricks/databricks-sdk-go/service/files"
	"github.com/databricks/databricks-sdk-go/service/iam"
	"github.com/databricks/databricks-sdk-go/service/jobs"
	"github.com/databricks/databricks-sdk-go/service/workspace"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
)

// sdkService is a service of Databricks as its SDK calls it. The list answers how many objects there are, and one that a get can be asked for.
type sdkService struct {
	list    func(context.Context, *client.DatabricksClient) (n int, one string, err error)
	get     func(ctx context.Context, c *client.DatabricksClient, one string) error
	private int // how many more objects an admin sees
}

// sdkServices are those of the table of scopes in docs/credentials.md that the engine itself doesn't use.
var sdkServices = map[string]sdkService{
	"Clusters": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(compute.NewClusters(c).ListAll(ctx, compute.ListClustersRequest{}))(func(o compute.ClusterDetails) string { return o.ClusterId })
		},
		func(ctx context.Context, c *client.DatabricksClient, id string) error {
			return same(compute.NewClusters(c).GetByClusterId(ctx, id))(func(o *compute.ClusterDetails) bool { return o.ClusterId == id })
		}, 1,
	},
	"Jobs": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(jobs.NewJobs(c).ListAll(ctx, jobs.ListJobsRequest{}))(func(o jobs.BaseJob) string { return strconv.FormatInt(o.JobId, 10) })
		},
		func(ctx context.Context, c *client.DatabricksClient, id string) error {
			number, err := strconv.ParseInt(id, 10, 64)
			if err != nil {
				return err
			}
			return same(jobs.NewJobs(c).GetByJobId(ctx, number))(func(o *jobs.Job) bool { return o.JobId == number })
		}, 1,
	},
	"DBFS": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(files.NewDbfs(c).ListAll(ctx, files.ListDbfsRequest{Path: "/"}))(func(o files.FileInfo) string { return o.Path })
		},
		func(ctx context.Context, c *client.DatabricksClient, path string) error {
			return same(files.NewDbfs(c).GetStatusByPath(ctx, path))(func(o *files.FileInfo) bool { return o.Path == path && o.IsDir })
		}, 0,
	},
	"Instance Profiles": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(compute.NewInstanceProfiles(c).ListAll(ctx))(func(o compute.InstanceProfile) string { return o.InstanceProfileArn })
		}, nil, 1, // it has no get
	},
	"Libraries": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(compute.NewLibraries(c).AllClusterStatusesAll(ctx))(func(o compute.ClusterLibraryStatuses) string { return o.ClusterId })
		},
		func(ctx context.Context, c *client.DatabricksClient, id string) error {
			return same(compute.NewLibraries(c).ClusterStatusByClusterId(ctx, id))(func(o *compute.ClusterLibraryStatuses) bool { return len(o.LibraryStatuses) == 1 })
		}, 1,
	},
	"Workspace": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(workspace.NewWorkspace(c).ListAll(ctx, workspace.ListWorkspaceRequest{Path: "/"}))(func(o workspace.ObjectInfo) string { return o.Path })
		},
		func(ctx context.Context, c *client.DatabricksClient, path string) error {
			return same(workspace.NewWorkspace(c).GetStatusByPath(ctx, path))(func(o *workspace.ObjectInfo) bool { return o.Path == path })
		}, 1,
	},
	"SCIM Users": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(iam.NewUsersV2(c).ListAll(ctx, iam.ListUsersRequest{}))(func(o iam.User) string { return o.Id })
		},
		func(ctx context.Context, c *client.DatabricksClient, id string) error {
			return same(iam.NewUsersV2(c).Get(ctx, iam.GetUserRequest{Id: id}))(func(o *iam.User) bool { return o.Id == id })
		}, 0,
	},
	"SCIM Groups": {
		func(ctx context.Context, c *client.DatabricksClient) (int, string, error) {
			return named(iam.NewGroupsV2(c).ListAll(ctx, iam.ListGroupsRequest{}))(func(o iam.Group) string { return o.Id })
		},
		func(ctx context.Context, c *client.DatabricksClient, id string) error {
			return same(iam.NewGroupsV2(c).Get(ctx, iam.GetGroupRequest{Id: id}))(func(o *iam.Group) bool { return o.Id == id })
		}, 0,
	},
}

func named[T any](all []T, err error) func(func(T) string) (int, string, error) {
	return func(name func(T) string) (int, string, error) {
		if err != nil || len(all) == 0 {
			return 0, "", err
		}
		return len(all), name(all[0]), nil
	}
}

func same[T any](found T, err error) func(func(T) bool) error {
	return func(fits func(T) bool) error {
		if err == nil && !fits(found) {
			err = errors.New("the SDK got another object than it asked for")
		}
		return err
	}
}

// scopesOfServices reads the table in docs/credentials.md.
func scopesOfServices(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/credentials.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## What scopes open\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	scopes := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| ([A-Za-z ]+) \\| `([a-z-]+)` \\| [a-z, ]+ \\|$").FindAllStringSubmatch(section, -1) {
		if _, known := sdkServices[row[1]]; known {
			scopes[row[1]] = row[2]
		}
	}
	require.Len(t, scopes, len(sdkServices), "the table has every service")
	return scopes
}

// TestEveryCredentialTypeReachesWhatItsScopesOpen is the table of credential types and services, called with the official SDK by what Vault
// has minted.
func TestEveryCredentialTypeReachesWhatItsScopesOpen(t *testing.T) {
	t.Parallel()
	scopes := scopesOfServices(t)
	for _, kind := range mintings {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			r := &tableRow{connected: connect(t, connection{"oauth-m2m", false}), kind: kind}
			if kind.credentialType == "database_credential" {
				r.requireNoService(t)
				return
			}
			role := r.role()
			delete(role, "scopes")
			r.write("roles/app", role)
			role["scopes"] = "sql"
			r.write("roles/sql", role)

			var ended []*consumer
			for _, limit := range []string{"", "all-apis"} {
				c := r.consume(t, "app", limit)
				for name := range sdkServices {
					c.requireReached(t, name)
				}
				ended = append(ended, c.end(t))
			}
			narrow := append(slices.Collect(maps.Values(scopes)), "sql")
			slices.Sort(narrow)
			for _, limit := range slices.Compact(narrow) {
				c := r.consume(t, "app", limit)
				for name, opens := range scopes {
					if opens == limit {
						c.requireReached(t, name)
					} else {
						c.requireForbidden(t, name, opens)
					}
				}
				ended = append(ended, c.end(t))
			}
			c := r.consume(t, "sql", "")
			for name, opens := range scopes {
				c.requireForbidden(t, name, opens)
			}
			ended = append(ended, c.end(t))

			// What a credential bought before its end is over after an hour, and so is an access token.
			r.ahead.Store(int64(2 * time.Hour))
			for _, c := range ended {
				for name := range sdkServices {
					_, _, err := sdkServices[name].list(t.Context(), c.sdk)
					require.Error(t, err, name)
				}
			}
		})
	}
}

// consumer has a credential of a row, and the SDK's client with it.
type consumer struct {
	r      *tableRow
	secret *api.Secret
	scopes []string // nil = all
	sdk    *client.DatabricksClient
}

// consume mints from a role, limited to a scope if one is given.
func (r *tableRow) consume(t *testing.T, role, limit string) *consumer {
	t.Helper()
	var body data
	c := &consumer{r: r}
	if limit != "" {
		body, c.scopes = data{"scopes": limit}, []string{limit}
	}
	if role == "sql" {
		c.scopes = []string{"sql"}
	}
	var err error
	c.secret, err = r.tryMint(role, body)
	require.NoError(t, err)
	c.sdk = c.connect(t, c.scopes)
	return c
}

// connect makes a client of the SDK as the manual says: with the token, or with the id, the secret and the scopes that it is limited to.
func (c *consumer) connect(t *testing.T, scopes []string) *client.DatabricksClient {
	t.Helper()
	cfg := &config.Config{Host: c.secret.Data["host"].(string), Loaders: []config.Loader{noLoader{}}, RateLimitPerSecond: 1 << 20}
	if id, ok := c.secret.Data["client_id"].(string); ok {
		cfg.ClientID, cfg.ClientSecret, cfg.Scopes, cfg.Credentials = id, secretPartOf(c.secret), scopes, config.M2mCredentials{}
	} else {
		cfg.Token, cfg.Credentials = secretPartOf(c.secret), config.PatCredentials{}
	}
	made, err := client.New(cfg)
	require.NoError(t, err)
	return made
}

// noLoader keeps the SDK from reading the environment and ~/.databrickscfg.
type noLoader struct{}

func (noLoader) Name() string                   { return "none" }
func (noLoader) Configure(*config.Config) error { return nil }

// requireReached calls the service, and finds what the identity may see there.
func (c *consumer) requireReached(t *testing.T, name string) {
	t.Helper()
	s := sdkServices[name]
	n, one, err := s.list(t.Context(), c.sdk)
	require.NoError(t, err, name)
	require.NotEmpty(t, one)
	if s.private > 0 && c.r.kind.whose == "engine" && c.r.kind.group == "" {
		require.Equal(t, 1+s.private, n, "%s: the engine's identity is an admin", name)
	} else if s.private > 0 {
		require.Equal(t, 1, n, "%s: a scope adds no right", name)
	}
	if s.get != nil {
		require.NoError(t, s.get(t.Context(), c.sdk, one), name)
	}
}

// requireForbidden calls the service, which must name the scope that is missing.
func (c *consumer) requireForbidden(t *testing.T, name, opens string) {
	t.Helper()
	s := sdkServices[name]
	_, _, err := s.list(t.Context(), c.sdk)
	errs := []error{err}
	if s.get != nil {
		errs = append(errs, s.get(t.Context(), c.sdk, "1"))
	}
	for _, err := range errs {
		refused, ok := errors.AsType[*apierr.APIError](err)
		require.True(t, ok, "%s: %v", name, err)
		require.Equal(t, 403, refused.StatusCode)
		require.Contains(t, refused.Message, "does not have required scopes: "+opens)
	}
}

// end revokes the credential, after which nobody can begin to use it, an access token aside.
func (c *consumer) end(t *testing.T) *consumer {
	t.Helper()
	if _, ok := c.secret.Data["client_id"]; ok && c.scopes != nil && c.scopes[0] != "all-apis" {
		_, _, err := sdkServices["Clusters"].list(t.Context(), c.connect(t, nil))
		require.ErrorContains(t, err, "all-apis", "the SDK asks for everything unless it is told otherwise")
	}
	c.r.revoke(c.secret)
	late := c.connect(t, c.scopes)
	for name, s := range sdkServices {
		_, _, err := s.list(t.Context(), late)
		if c.r.kind.credentialType != "oauth_token" {
			require.Error(t, err, name)
		} else if c.scopes == nil {
			require.NoError(t, err, "%s: an access token can't be revoked", name)
		}
		if c.r.kind.whose == "lease" {
			_, _, err := s.list(t.Context(), c.sdk)
			require.Error(t, err, "%s: what it has bought goes with its service principal", name)
		}
	}
	return c
}
