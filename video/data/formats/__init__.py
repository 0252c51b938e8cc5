"""Formats in which people have their clips, in the order in which they are tried."""

from revit.common.data.formats.base import Format
from revit.common.data.formats.metadata import HuggingFaceFolder
from revit.common.data.formats.path_label import PathLabel
from revit.common.data.formats.table import Table
from revit.common.data.formats.tar_shards import TarShards
from revit.video.data.formats.annotations import Charades, Diving48, Epic, SomethingSomething
from revit.video.data.formats.frame_folders import ClipFolders, FrameFolderList
from revit.video.data.formats.kinetics import Kinetics
from revit.video.data.formats.official_splits import Hmdb51, Ucf101

CLIP_FORMATS: tuple[Format, ...] = (
    *(Hmdb51(), Ucf101(), HuggingFaceFolder(), TarShards(), ClipFolders()),
    *(SomethingSomething(), Diving48(), Charades(), Epic(), Kinetics(), FrameFolderList(), Table(), PathLabel()),
)
