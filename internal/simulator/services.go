// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
)

// Every workspace has the same few objects of the services below, so that a token
// can be tried on them: one that all its users may see and, where the service
// knows permissions, one that only its admins may see. They can't be changed.
//
// The API scopes that open them are those of the REST reference ("API scopes:" of
// each operation; for DBFS that is files), or were recorded in refusals: clusters
// and jobs, and workspace, files and scim, too.

// object is what a service lists and gets.
type object struct {
	name   string // by which a get asks for it
	shared bool   // with all users
	shown  map[string]any
}

const (
	sharedCluster  = "1015-120000-shared01"
	privateCluster = "1015-120000-admins01"
)

var clusters = []object{
	{sharedCluster, true, cluster(sharedCluster, "shared")},
	{privateCluster, false, cluster(privateCluster, "of the admins")},
}

func cluster(id, name string) map[string]any {
	return map[string]any{
		"cluster_id": id, "cluster_name": name, "state": "TERMINATED", "spark_version": "17.3.x-scala2.13", "node_type_id": "i3.xlarge",
		"num_workers": 1, "creator_user_name": "operator@example.com", "cluster_source": "UI",
	}
}

var libraries = []object{
	{sharedCluster, true, libraryStatuses(sharedCluster)},
	{privateCluster, false, libraryStatuses(privateCluster)},
}

func libraryStatuses(id string) map[string]any {
	return map[string]any{"cluster_id": id, "library_statuses": []map[string]any{
		{"library": map[string]any{"pypi": map[string]any{"package": "simplejson"}}, "status": "INSTALLED"},
	}}
}

var instanceProfiles = []object{
	{"", true, map[string]any{"instance_profile_arn": "arn:aws:iam::123456789012:instance-profile/shared", "is_meta_instance_profile": false}},
	{"", false, map[string]any{"instance_profile_arn": "arn:aws:iam::123456789012:instance-profile/admins", "is_meta_instance_profile": false}},
}

var jobs = []object{
	{"11", true, job(11, "shared")},
	{"12", false, job(12, "of the admins")},
}

func job(id int64, name string) map[string]any {
	return map[string]any{
		"job_id": id, "creator_user_name": "operator@example.com", "created_time": 1760529600000, "settings": map[string]any{"name": name},
	}
}

var files = []object{
	{"/", true, file("/", true)},
	{"/FileStore", true, file("/FileStore", true)},
	{"/FileStore/readme.txt", true, file("/FileStore/readme.txt", false)},
}

func file(name string, directory bool) map[string]any {
	size := 12
	if directory {
		size = 0
	}
	return map[string]any{"path": name, "is_dir": directory, "file_size": size, "modification_time": 1760529600000}
}

var notebooks = []object{
	{"/", true, map[string]any{"path": "/", "object_type": "DIRECTORY", "object_id": 1}},
	{"/Shared", true, map[string]any{"path": "/Shared", "object_type": "DIRECTORY", "object_id": 2}},
	{"/Shared/report", true, map[string]any{"path": "/Shared/report", "object_type": "NOTEBOOK", "language": "PYTHON", "object_id": 3}},
	{"/Admins", false, map[string]any{"path": "/Admins", "object_type": "DIRECTORY", "object_id": 4}},
}

// list answers with the objects that the caller may see.
func list(key string, objects []object) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		return listOf(key, w.visible(r, objects, func(object) bool { return true })), nil
	}
}

// listDirectory answers with what is in the directory that the query names, or
// with the object itself if it is none.
func listDirectory(key string, objects []object, absent func(name string) *refusal) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		parent, refused := w.find(r, "path", objects, absent)
		if refused != nil {
			return nil, refused
		}
		if parent.shown["is_dir"] != true && parent.shown["object_type"] != "DIRECTORY" {
			return listOf(key, []map[string]any{parent.shown}), nil
		}
		return listOf(key, w.visible(r, objects, func(o object) bool { return o.name != "/" && path.Dir(o.name) == parent.name })), nil
	}
}

// get answers with the object that a parameter of the query names.
func get(parameter string, objects []object, absent func(name string) *refusal) handler {
	return func(w *Workspace, r *request) (any, *refusal) {
		found, refused := w.find(r, parameter, objects, absent)
		if refused != nil {
			return nil, refused
		}
		return maps.Clone(found.shown), nil
	}
}

func (w *Workspace) visible(r *request, objects []object, wanted func(object) bool) []map[string]any {
	admin := w.isAdmin(r.caller)
	var shown []map[string]any
	for _, o := range objects {
		if (o.shared || admin) && wanted(o) {
			shown = append(shown, o.shown)
		}
	}
	return shown
}

// find tells a caller who may not see an object that it exists, as the Clusters
// API does. Whether all services do is not known.
func (w *Workspace) find(r *request, parameter string, objects []object, absent func(name string) *refusal) (object, *refusal) {
	name := r.URL.Query().Get(parameter)
	if name == "" {
		return object{}, missingField(parameter)
	}
	i := slices.IndexFunc(objects, func(o object) bool { return o.name == name })
	switch {
	case i < 0:
		return object{}, absent(name)
	case !objects[i].shared && !w.isAdmin(r.caller):
		return object{}, refuse(http.StatusForbidden, "PERMISSION_DENIED", fmt.Sprintf("%s does not have permission to view %s.", r.caller.UserName, name))
	}
	return objects[i], nil
}

// noCluster and noJob have the form by which the Databricks SDK recognises them
// (apierr/error_overrides.go).
func noCluster(id string) *refusal {
	return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("Cluster %s does not exist", id))
}

func noJob(id string) *refusal {
	return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE", fmt.Sprintf("Job %s does not exist.", id))
}

// noFile and noPath have the documented code. Their texts are the simulator's own.
func noFile(name string) *refusal {
	return refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf("No file or directory exists on path %s.", name))
}

func noPath(name string) *refusal {
	return refuse(http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", fmt.Sprintf("Path (%s) doesn't exist.", name))
}
