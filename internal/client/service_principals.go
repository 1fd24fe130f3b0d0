// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/databricks/databricks-sdk-go/service/iam"
)

// The operations of the SCIM API, as errors and counters name them.
const (
	opSPGet     = "scim/service-principals/get"
	opSPList    = "scim/service-principals/list"
	opSPCreate  = "scim/service-principals/create"
	opSPDelete  = "scim/service-principals/delete"
	opGroupGet  = "scim/groups/get"
	opGroupList = "scim/groups/list"
)

const (
	// scimPage is how many things a page of a list may have. A server may give fewer (official SDK, list service principals).
	scimPage = 10000
	// maxPages bounds a list, against a server that never comes to its end.
	maxPages = 1000
)

// ServicePrincipal is a service principal of the workspace, or of the account on an account.
type ServicePrincipal struct {
	ID            string // numeric, and what its OAuth secrets and SCIM know it by
	ApplicationID string // a UUID: its OAuth client id, user name, and the application id of its tokens
	DisplayName   string // need not be unique
	Active        bool
	Admin         bool // a workspace admin, or an account admin on an account. Only [Client.GetServicePrincipal] and [Client.FindServicePrincipal] tell
}

// GetServicePrincipal returns a service principal by its numeric id (Databricks REST reference, Service principals API,
// get). One that does not exist is an error of kind [NotFound].
func (c *Client) GetServicePrincipal(ctx context.Context, id string) (*ServicePrincipal, error) {
	if err := checkID(opSPGet, "service principal", id); err != nil {
		return nil, err
	}
	var found ServicePrincipal
	_, err := c.do(ctx, call{op: opSPGet, result: true, signed: true}, func(ctx context.Context) error {
		var sp iam.ServicePrincipal
		if err := c.send(ctx, http.MethodGet, c.scimBase+"ServicePrincipals/"+id, nil, &sp); err != nil {
			return err
		}
		found = servicePrincipal(&sp)
		return found.complete()
	})
	if err != nil {
		return nil, err
	}
	return &found, nil
}

// FindServicePrincipal returns a service principal by its application id (Databricks REST reference, Service principals
// API, list). One that does not exist is an error of kind [NotFound].
func (c *Client) FindServicePrincipal(ctx context.Context, applicationID string) (*ServicePrincipal, error) {
	listed, err := c.servicePrincipals(ctx, "applicationId eq "+filterText(applicationID), "groups", "roles")
	if err != nil {
		return nil, err
	}
	for i := range listed {
		if strings.EqualFold(listed[i].ApplicationID, applicationID) {
			return &listed[i], nil
		}
	}
	return nil, absent(opSPList, "no service principal has the application id %q", applicationID)
}

// ServicePrincipalsNamed returns the service principals whose display names contain a text, which must not be empty
// (Databricks REST reference, Service principals API, list, which comes in pages).
func (c *Client) ServicePrincipalsNamed(ctx context.Context, part string) ([]ServicePrincipal, error) {
	if part == "" {
		return nil, notSent(opSPList, "the text is empty, which all service principals contain")
	}
	listed, err := c.servicePrincipals(ctx, "displayName co "+filterText(part))
	if err != nil {
		return nil, err
	}
	named := make([]ServicePrincipal, 0, len(listed))
	for _, sp := range listed {
		if strings.Contains(sp.DisplayName, part) {
			named = append(named, sp)
		}
	}
	return named, nil
}

func (c *Client) servicePrincipals(ctx context.Context, filter string, more ...string) ([]ServicePrincipal, error) {
	attributes := append([]string{"id", "applicationId", "displayName", "active"}, more...)
	listed, err := listSCIM[iam.ServicePrincipal](ctx, c, opSPList, "ServicePrincipals", filter, strings.Join(attributes, ","))
	if err != nil {
		return nil, err
	}
	found := make([]ServicePrincipal, 0, len(listed))
	for i := range listed {
		found = append(found, servicePrincipal(&listed[i]))
	}
	return found, nil
}

// NewServicePrincipal says which service principal to make.
type NewServicePrincipal struct {
	DisplayName  string
	GroupIDs     []string // groups of the workspace to be a member of, by their numeric ids; must be empty on an account
	Entitlements []string // such as "workspace-access"; must be empty on an account
}

// CreateServicePrincipal makes a service principal, with its groups and entitlements in the same request (Databricks REST
// reference, Service principals API, create). It is repeated as [Client.CreateToken] is, and the bool says what
// [CreatedToken.Retried] does: that a second one of the same display name may exist.
func (c *Client) CreateServicePrincipal(ctx context.Context, wanted NewServicePrincipal) (*ServicePrincipal, bool, error) {
	if c.account && len(wanted.GroupIDs)+len(wanted.Entitlements) > 0 {
		return nil, false, notSent(opSPCreate, "on an account, a service principal is made without groups and entitlements, which belong to workspaces")
	}
	body := iam.CreateServicePrincipalRequest{
		Active:       true,
		DisplayName:  wanted.DisplayName,
		Groups:       complexValues(wanted.GroupIDs),
		Entitlements: complexValues(wanted.Entitlements),
		Schemas:      []iam.ServicePrincipalSchema{iam.ServicePrincipalSchemaUrnIetfParamsScimSchemasCore20ServicePrincipal},
	}
	var created ServicePrincipal
	ca, err := c.do(ctx, call{op: opSPCreate, creates: true, result: true, signed: true}, func(ctx context.Context) error {
		var sp iam.ServicePrincipal
		if err := c.send(ctx, http.MethodPost, c.scimBase+"ServicePrincipals", body, &sp); err != nil {
			return err
		}
		created = servicePrincipal(&sp)
		return created.complete()
	})
	if err != nil {
		return nil, false, err
	}
	return &created, ca.retried, nil
}

// DeleteServicePrincipal removes a service principal by its numeric id (Databricks REST reference, Service principals API,
// delete). One that does not exist is an error of kind [NotFound].
func (c *Client) DeleteServicePrincipal(ctx context.Context, id string) error {
	if err := checkID(opSPDelete, "service principal", id); err != nil {
		return err
	}
	_, err := c.do(ctx, call{op: opSPDelete, deletes: true, signed: true}, func(ctx context.Context) error {
		return c.send(ctx, http.MethodDelete, c.scimBase+"ServicePrincipals/"+id, nil, nil)
	})
	return err
}

// GroupID returns the numeric id of the group with exactly this display name (Databricks REST reference, Groups API, list).
// One that does not exist is an error of kind [NotFound], and a name that several groups have is [Refused].
func (c *Client) GroupID(ctx context.Context, displayName string) (string, error) {
	listed, err := listSCIM[iam.Group](ctx, c, opGroupList, "Groups", "displayName eq "+filterText(displayName), "id,displayName")
	if err != nil {
		return "", err
	}
	var ids []string
	for _, group := range listed {
		if group.DisplayName == displayName && group.Id != "" {
			ids = append(ids, group.Id)
		}
	}
	switch len(ids) {
	case 0:
		return "", absent(opGroupList, "no group has the display name %q", displayName)
	case 1:
		return ids[0], nil
	default:
		return "", &Error{
			Op: opGroupList, Kind: Refused, Unprocessed: true, what: "the group is not the only one of its name",
			Message: clean(strconv.Quote(displayName) + " is the display name of the groups " + strings.Join(ids, ", ")),
			hint:    hintSeveralGroups,
		}
	}
}

// hintSeveralGroups is what to do where a group can be named by its display name only.
const hintSeveralGroups = "rename one of them"

// Group is a group of the workspace.
type Group struct{ ID, DisplayName string }

// FindGroup returns a group by its numeric id or by its display name, in that order (Databricks REST reference, Groups API, get and list). One
// that does not exist is an error of kind [NotFound], and a name that several groups have is [Refused].
func (c *Client) FindGroup(ctx context.Context, idOrName string) (*Group, error) {
	if idOrName != "" && strings.Trim(idOrName, "0123456789") == "" {
		var found Group
		_, err := c.do(ctx, call{op: opGroupGet, result: true, signed: true}, func(ctx context.Context) error {
			var group iam.Group
			if err := c.send(ctx, http.MethodGet, c.scimBase+"Groups/"+idOrName, nil, &group); err != nil {
				return err
			}
			if found = (Group{group.Id, group.DisplayName}); found.ID == "" || found.DisplayName == "" {
				return errIncomplete
			}
			return nil
		})
		if err == nil {
			return &found, nil
		}
		if !IsGone(err) {
			return nil, err
		}
	}
	id, err := c.GroupID(ctx, idOrName)
	var several *Error
	if errors.As(err, &several) && several.hint == hintSeveralGroups {
		named := *several
		named.hint = "send the id of the one that is meant as assume_group_id"
		return nil, &named
	}
	if err != nil {
		return nil, err
	}
	return &Group{id, idOrName}, nil
}

// listSCIM returns all that a filter matches, page by page, each of them a call of its own.
func listSCIM[T any](ctx context.Context, c *Client, op, resource, filter, attributes string) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, CallBudget)
	defer cancel()
	var all []T
	for range maxPages {
		var page struct {
			Total     int64 `json:"totalResults"`
			Resources []T   `json:"Resources"`
		}
		_, err := c.do(ctx, call{op: op, result: true, signed: true}, func(ctx context.Context) error {
			return c.send(ctx, http.MethodGet, c.scimBase+resource, map[string]string{
				"filter":     filter,
				"attributes": attributes,
				"startIndex": strconv.Itoa(len(all) + 1),
				"count":      strconv.Itoa(scimPage),
			}, &page)
		})
		var failure *Error
		if errors.As(err, &failure) && failure.Kind == NotFound {
			// What is absent is not a member of the list but the list.
			missing := *failure
			missing.Kind, missing.hint = Refused, hintHost
			return nil, &missing
		}
		if err != nil {
			return nil, err
		}
		all = append(all, page.Resources...)
		if len(page.Resources) == 0 || page.Total > 0 && int64(len(all)) >= page.Total {
			return all, nil
		}
	}
	return nil, endless(op)
}

// endless makes the error of a list that has more pages than anything can have.
func endless(op string) *Error {
	return unreadable(op, http.StatusOK, "the list has no end", "")
}

// absent makes the error of something that a list does not have.
func absent(op, format string, args ...any) *Error {
	e := notSent(op, format, args...)
	e.Kind, e.what = NotFound, ""
	return e
}

// filterText writes a text as a value in a filter (RFC 7644, section 3.4.2.2, which refers to JSON).
func filterText(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// checkID refuses an id that has a meaning in a path, where ids are put as they are.
func checkID(op, what, id string) error {
	if !tokenIDText.MatchString(id) {
		return notSent(op, "%q can't be a %s id, which has letters, digits, dashes and underscores, 128 at most", id, what)
	}
	return nil
}

func complexValues(values []string) []iam.ComplexValue {
	var list []iam.ComplexValue
	for _, value := range values {
		list = append(list, iam.ComplexValue{Value: value})
	}
	return list
}

func servicePrincipal(sp *iam.ServicePrincipal) ServicePrincipal {
	found := ServicePrincipal{ID: sp.Id, ApplicationID: sp.ApplicationId, DisplayName: sp.DisplayName, Active: sp.Active}
	for _, group := range sp.Groups {
		found.Admin = found.Admin || IsAdminGroup(group.Display)
	}
	for _, role := range sp.Roles {
		found.Admin = found.Admin || role.Value == accountAdminRole
	}
	return found
}

// accountAdminRole is the role that makes a member of an account its admin (Databricks REST reference, Account Service Principals API).
const accountAdminRole = "account_admin"

// IsAdminGroup reports whether the display name is that of the group that makes its members workspace admins.
func IsAdminGroup(displayName string) bool { return strings.EqualFold(displayName, "admins") }

// complete returns an error when an answer lacks the ids.
func (sp ServicePrincipal) complete() error {
	if sp.ID == "" || sp.ApplicationID == "" {
		return errIncomplete
	}
	return nil
}
