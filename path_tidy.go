// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keyCancel            = "cancel"
	keyMountIDs          = "mount_ids"
	keyState             = "state"
	keyStarted           = "started"
	keyFinished          = "finished"
	keyAutomatic         = "automatic"
	keyFound             = "found"
	keyFailed            = "failed"
	keyLastError         = "last_error"
	keyTokens            = "tokens"
	keyServicePrincipals = "service_principals"
	keyTruncated         = "truncated"
	keyNextAutomatic     = "next_automatic"

	keyStartTime         = "start_time"
	keyFinishTime        = "finish_time"
	keyNextAutomaticTime = "next_automatic_time"
)

func pathTidy() []*framework.Path {
	responses := []framework.Response{{Description: "OK", Fields: tidyResponseFields}}
	return []*framework.Path{
		{
			Pattern: "tidy",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "tidy",
			},
			Fields: map[string]*framework.FieldSchema{
				keyDryRun: {
					Type:        framework.TypeBool,
					Description: "Only report what would be removed.",
				},
				keyMountIDs: {
					Type:        framework.TypeCommaStringSlice,
					Description: "Ids of other mounts, as their status shows them: also remove what they created and what is past its end. For mounts that no longer exist, and on an account mount for the service principals that workspaces left there.",
				},
				keyCancel: {
					Type:        framework.TypeBool,
					Description: "Stop the run in progress. What it has removed stays removed.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: writeOperation((*backend).writeTidy, "Remove from Databricks what this mount created and no longer owns.", responses,
					framework.RequestExample{
						Description: "Report what would be removed.",
						Data:        map[string]any{keyDryRun: true},
					}),
			},
			HelpSynopsis:    "Remove what this mount created and no longer owns.",
			HelpDescription: strings.TrimSpace(tidyHelp),
		},
		{
			Pattern: "tidy/status",
			DisplayAttrs: &framework.DisplayAttributes{
				OperationPrefix: "databricks",
				OperationSuffix: "tidy-status",
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  on((*backend).readTidy),
					Summary:   "Read the result of the latest run, or the progress of the current one.",
					Responses: map[int][]framework.Response{http.StatusOK: responses},
					// The progress of a run is in the memory of the node that executes it.
					ForwardPerformanceStandby:   true,
					ForwardPerformanceSecondary: true,
				},
			},
			HelpSynopsis:    "The status of the latest tidy run.",
			HelpDescription: strings.TrimSpace(tidyHelp),
		},
	}
}

var tidyResponseFields = map[string]*framework.FieldSchema{
	keyState:             {Type: framework.TypeString, Required: true, Description: "idle before the first run, then running, finished, failed or cancelled."},
	keyStarted:           {Type: framework.TypeString, Required: true, Description: "When the run started, RFC 3339; null before the first one."},
	keyStartTime:         {Type: framework.TypeString, Required: true, Description: "The same as started."},
	keyFinished:          {Type: framework.TypeString, Required: true, Description: "When it ended, RFC 3339; null if it has not."},
	keyFinishTime:        {Type: framework.TypeString, Required: true, Description: "The same as finished."},
	keyDryRun:            {Type: framework.TypeBool, Required: true, Description: "Whether it only reports."},
	keyAutomatic:         {Type: framework.TypeBool, Required: true, Description: "Whether the engine began it automatically."},
	keyFound:             {Type: framework.TypeInt, Required: true, Description: "How many things it found that should be removed."},
	keyDeleted:           {Type: framework.TypeInt, Required: true, Description: "How many of them it has removed, including those that were gone already."},
	keyFailed:            {Type: framework.TypeInt, Required: true, Description: "How many of them it could not remove."},
	keyLastError:         {Type: framework.TypeString, Required: true, Description: "What went wrong last; empty for nothing."},
	keyTokens:            {Type: framework.TypeStringSlice, Required: true, Description: fmt.Sprintf("Ids of the personal access tokens that it found, %d at most.", tidyMaxIDs)},
	keyServicePrincipals: {Type: framework.TypeStringSlice, Required: true, Description: fmt.Sprintf("Ids of the service principals that it found, %d at most.", tidyMaxIDs)},
	keyTruncated:         {Type: framework.TypeBool, Required: true, Description: "Whether it found more than are shown."},
	keyNextAutomatic:     {Type: framework.TypeString, Required: true, Description: "When the engine will next look for service principals automatically, RFC 3339; null when that is not decided yet."},
	keyNextAutomaticTime: {Type: framework.TypeString, Required: true, Description: "The same as next_automatic."},
}

// data returns the status as a response.
func (s *tidyStatus) data() map[string]any {
	return map[string]any{
		keyState:             s.State,
		keyStarted:           timeOrNull(s.Started),
		keyStartTime:         timeOrNull(s.Started),
		keyFinished:          timeOrNull(s.Finished),
		keyFinishTime:        timeOrNull(s.Finished),
		keyDryRun:            s.DryRun,
		keyAutomatic:         s.Automatic,
		keyFound:             s.Found,
		keyDeleted:           s.Deleted,
		keyFailed:            s.Failed,
		keyLastError:         s.LastError,
		keyTokens:            append([]string{}, s.Tokens...),
		keyServicePrincipals: append([]string{}, s.ServicePrincipals...),
		keyTruncated:         s.Truncated,
		keyNextAutomatic:     timeOrNull(s.NextAutomatic),
		keyNextAutomaticTime: timeOrNull(s.NextAutomatic),
	}
}

func (b *backend) readTidy(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return b.tidyAnswer(ctx, req.Storage)
}

// tidyAnswer returns the status with the warnings.
func (b *backend) tidyAnswer(ctx context.Context, s logical.Storage, warnings ...string) (*logical.Response, error) {
	status, _, err := b.tidyStatus(ctx, s)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: status.data(), Warnings: slices.Clone(warnings)}, nil
}

func (b *backend) writeTidy(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	dryRun, cancel := data.Get(keyDryRun).(bool), data.Get(keyCancel).(bool)
	follow := fmt.Sprintf("follow it with: vault read %stidy/status", req.MountPoint)
	switch {
	case dryRun && cancel:
		return nil, badField(keyCancel, "can't be combined with %s, since it starts no run", keyDryRun)
	case cancel && len(data.Get(keyMountIDs).([]string)) > 0:
		return nil, badField(keyCancel, "can't be combined with %s, since it starts no run", keyMountIDs)
	case b.mountID == unnamedMount:
		return nil, badField("mount", "Vault has provided no id of this mount, so what it created can't be distinguished from what other mounts created, and nothing is removed")
	case cancel:
		if !b.cancelTidy() {
			return b.tidyAnswer(ctx, req.Storage, "No run is under way, so none was cancelled.")
		}
		return b.tidyAnswer(ctx, req.Storage)
	}
	others := data.Get(keyMountIDs).([]string)
	for _, id := range others {
		if !mountIDForm.MatchString(id) || id == unnamedMount {
			return nil, badField(keyMountIDs, "%q is not a valid mount id; the status path of a mount shows it as mount_id", id)
		}
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	mounts := append([]string{b.mountID}, others...)
	slices.Sort(mounts)
	began, err := b.beginTidy(ctx, &tidyRun{conn: conn, storage: req.Storage, dryRun: dryRun, mounts: slices.Compact(mounts)})
	if err != nil {
		return nil, err
	}
	if !began {
		return b.tidyAnswer(ctx, req.Storage, "A run is already in progress, so no other was begun; "+follow)
	}
	return b.tidyAnswer(ctx, req.Storage, "The run goes on in the background; "+follow)
}

// mountIDForm matches the mount ids that a mark can have.
var mountIDForm = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

const tidyHelp = `
Finds what this mount made at Databricks and no longer owns, and removes it: what
is past the last moment that its lease could have lived, and credentials of static
roles and of the config that no entry in Vault refers to. They are found by the
mount's own mark at the end of a comment or a display name; what doesn't bear it is
never touched.

  vault write databricks/tidy dry_run=true
  vault write -force databricks/tidy
  vault read databricks/tidy/status
  vault write databricks/tidy cancel=true

To remove what another mount left past its end, for example a deleted one:

  vault write databricks/tidy mount_ids=5c1c8c1e-…

It covers the personal access tokens of the engine's identity, or of all users if
that identity is a workspace admin, and service principals, whose secrets are
deleted with them. On an account mount it covers service principals only.

A run continues in the background. Service principals have no expiry, so the engine
also looks for those automatically, once a day.
`
